"""Rows of data files against datasets and TRL: JSON and Parquet as datasets, pandas and pyarrow write them.

What a row should be is what TRL's trainers have before they make tokens of it, with TRL's own functions.
"""

import json
import random

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from support import ProbeError
from trl import extract_prompt
from trl.data_utils import is_conversational, maybe_convert_to_chatml

ROWS = 80
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"zeta": 1, "alpha": [2]}}}]


def text(rng, most=40):
    return "".join(rng.choice("abc  é\n\u2028\"\\漢😀\t") for _ in range(rng.randrange(1, most)))


def turns(rng, count):
    return [{"role": ["user", "assistant"][turn % 2], "content": text(rng)} for turn in range(count)]


def answer(rng):
    return [{"role": "assistant", "content": text(rng)}]


def tool_turns(rng):
    call = {"type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": text(rng, 8)})}}
    nothing = {"tool_calls": None, "name": None}
    return [
        {"role": "user", "content": text(rng), **nothing},
        {"role": "assistant", "content": None, "tool_calls": [call] * rng.randrange(1, 3), "name": None},
        {"role": "tool", "content": text(rng), "tool_calls": None, "name": "weather"},
        {"role": "assistant", "content": text(rng), **nothing},
    ]


def implicit_pair(rng):
    start = text(rng)
    return {"chosen": start + "x" + text(rng), "rejected": start + rng.choice(["y", " "]) + text(rng)}


def implicit_pair_of_messages(rng):
    start = turns(rng, rng.choice([1, 3]))
    return {"chosen": start + answer(rng), "rejected": start + answer(rng), "score_chosen": 1.5}


def ranking(rng):
    ranks = [1, *(rng.randrange(1, 4) for _ in range(rng.randrange(4))), 5]
    return {"prompt": text(rng), "completions": [{"rank": rank, "completion": text(rng)} for rank in ranks]}


def ranking_of_messages(rng):
    completions = [{"rank": rank, "completion": answer(rng)} for rank in (1.5, 2.5, 2.5)]
    return {"prompt": turns(rng, 1), "completions": completions}


# What the data are wanted for, and a row. Numbers have few digits: Dataset.to_json rounds them to ten.
SHAPES = {
    "text": ("language-modelling", lambda rng: {"text": text(rng), "id": rng.randrange(9), "score": rng.random()}),
    "messages": ("language-modelling", lambda rng: {"messages": turns(rng, rng.randrange(1, 8)), "source": text(rng)}),
    "tools": ("language-modelling", lambda rng: {"messages": tool_turns(rng), "tools": json.dumps(TOOLS)}),
    "conversations": (
        "language-modelling",
        lambda rng: {"conversations": [{"from": "human", "value": text(rng)}, {"from": "gpt", "value": text(rng)}]},
    ),
    "completion": (
        "language-modelling",
        lambda rng: {"prompt": text(rng), "completion": rng.choice([text(rng), ""])},
    ),
    "completion_messages": (
        "language-modelling",
        lambda rng: {"prompt": turns(rng, rng.choice([1, 3])), "completion": answer(rng)},
    ),
    "pair": (
        "preference",
        lambda rng: {
            "prompt": text(rng), "chosen": text(rng), "rejected": text(rng), "margin": rng.randrange(1000) / 8,
        },
    ),
    "pair_messages": (
        "preference",
        lambda rng: {"prompt": turns(rng, 1), "chosen": answer(rng), "rejected": answer(rng)},
    ),
    "implicit": ("preference", implicit_pair),
    "implicit_messages": ("preference", implicit_pair_of_messages),
    "ranking": ("preference", ranking),
    "ranking_messages": ("preference", ranking_of_messages),
    "prompt": ("prompts", lambda rng: {"prompt": text(rng), "answer": rng.randrange(9)}),
    "prompt_messages": ("prompts", lambda rng: {"prompt": turns(rng, 1)}),
    "responses": (
        "score",
        lambda rng: {"prompt": text(rng), "responses": [text(rng) for _ in range(rng.randrange(1, 5))]},
    ),
}


def side(value, tools=None):
    """A prompt or a response as the library has it: messages without the nulls that a table fills in."""
    if isinstance(value, str):
        return value
    messages = [
        {key: item for key, item in message.items() if item is not None or key == "content"} for message in value
    ]
    return {"messages": messages} | ({"tools": tools} if tools else {})


def expected(row):
    row = {key: value for key, value in row.items() if value is not None}
    if "conversations" in row:
        row = maybe_convert_to_chatml(row)
    if "chosen" in row and "prompt" not in row:
        row = extract_prompt(row)
    if "messages" in row:
        assert is_conversational(row)
        return {"shape": "conversation"} | side(row["messages"], json.loads(row.get("tools", "null")))
    if "text" in row:
        return {"shape": "text", "text": row["text"]}
    prompt = {"prompt": side(row["prompt"])}
    if "chosen" in row:
        margin = {"margin": row["margin"]} if "margin" in row else {}
        pair = {"chosen": side(row["chosen"]), "rejected": side(row["rejected"])}
        return {"shape": "pair"} | prompt | pair | margin
    if "completions" in row:
        ranked = [{"rank": float(one["rank"]), "completion": side(one["completion"])} for one in row["completions"]]
        return {"shape": "ranking"} | prompt | {"responses": ranked}
    if "responses" in row:
        return {"shape": "responses"} | prompt | {"responses": [side(one) for one in row["responses"]]}
    if "completion" in row:
        return {"shape": "completion"} | prompt | {"completion": side(row["completion"])}
    return {"shape": "prompt"} | prompt


def write_files(directory, rows):
    """The same rows in the files that people have."""
    dataset = datasets.Dataset.from_list(rows)
    dataset.to_parquet(directory / "datasets.parquet")
    dataset.to_json(directory / "datasets.jsonl")
    dataset.to_json(directory / "ascii.jsonl", force_ascii=True)
    dataset.to_json(directory / "packed.jsonl.gz", compression="gzip")
    (directory / "array.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    frame = pandas.DataFrame(rows)
    for codec in ("snappy", "zstd", "gzip"):
        frame.to_parquet(directory / f"pandas_{codec}.parquet", compression=codec)
    table = pyarrow.Table.from_pylist(rows)
    # Small pages and groups, so that rows reach from one into the next.
    small = {"row_group_size": 7, "data_page_size": 300, "write_batch_size": 13}
    for codec, dictionary, page in [("zstd", False, "2.0"), ("none", True, "1.0"), ("snappy", True, "2.0")]:
        path = directory / f"pyarrow_{codec}.parquet"
        pyarrow.parquet.write_table(
            table, path, compression=codec, use_dictionary=dictionary, data_page_version=page, **small
        )
    # Lists as Spark and old versions write them.
    old = {"version": "1.0", "use_compliant_nested_type": False, "flavor": "spark"}
    pyarrow.parquet.write_table(table, directory / "old.parquet", **old)
    return sorted(directory.iterdir())


@pytest.mark.parametrize("shape", SHAPES)
def test_rows(probe, shape, tmp_path):
    datasets.disable_progress_bars()
    kind, row = SHAPES[shape]
    rng = random.Random(5)
    rows = [row(rng) for _ in range(ROWS)]
    (tmp_path / "files").mkdir()
    paths = write_files(tmp_path / "files", rows)
    reference = datasets.Dataset.from_parquet(
        str(tmp_path / "files" / "datasets.parquet"), cache_dir=str(tmp_path / "cache")
    )
    wanted = [expected(row) for row in reference]
    assert len(paths) == 12 and len(wanted) == ROWS
    for path in paths:
        # One after the other; by number from memory; by number from the file, which a packed one does not allow.
        ways = [None, 2**30] if path.suffix == ".gz" else [None, 2**30, 0]
        for memory in ways:
            found = probe("rows", paths=[str(path)], kind=kind, memory=memory)
            assert found == wanted, (path.name, memory)
    # Several files are one data set.
    assert probe("rows", paths=[str(path) for path in paths[:2]], kind=kind, memory=None) == wanted * 2


def test_tools_keep_the_order_of_their_keys(probe, tmp_path):
    # A chat template writes them out in that order.
    row = SHAPES["tools"][1](random.Random(5))
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "tools.parquet")
    [found] = probe("rows", paths=[str(tmp_path / "tools.parquet")], kind="language-modelling", memory=None)
    assert json.dumps(found["tools"]) == json.dumps(TOOLS)


def test_a_row_of_another_shape_is_refused(probe, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\n')
    with pytest.raises(ProbeError, match="rows.jsonl.*line 2.*rejected"):
        probe("rows", paths=[str(path)], kind="preference", memory=None)
