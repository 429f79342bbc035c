"""Time and memory of a training step over the length of the sequence and the size of the vocabulary: `posterior sft`
against plain PyTorch, in one run.

    bench/run lengths [--lengths 256 1024 4096] [--vocabularies 8192 32768] [--steps 2] [--repetitions 1]

A small random Llama (width 256, 4 layers of 4 heads, inner width 688, one matrix for embedding and head) takes one
sequence a step: first longer and longer ones with a vocabulary of 8,192, then ones of 512 tokens with larger and larger
vocabularies. The sides and the steps are those of llama.py. Ratios are ours over theirs, below 1 the program needs
less. The columns of what a token (or an entry of the vocabulary) costs more than in the line before tell whether memory
is linear, and where it is not.
"""

import tempfile
from pathlib import Path

from llama import KEEP, WARM_UP, Posterior, PyTorch, Work, begin, check, end, parser, summary, take_turns

SIZE = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "tie_word_embeddings": True,
}


class Table:
    """A line a case, as soon as it is measured."""

    def __init__(self, title, growing, unit):
        self.before = None
        print(f"\n{title}")
        more = "more per " + unit
        print(f"  {'':>10} {'step':>21} {'':>6} {'of products':>17} {'peak memory':>21} {'':>6} {more:>23}")
        sides = f"{'posterior':>10} {'PyTorch':>10}"
        shares, more = f"{'posterior':>9} {'PyTorch':>7}", f"{'posterior':>11} {'PyTorch':>11}"
        print(f"  {growing:>10} {sides} {'ratio':>6} {shares} {sides} {'ratio':>6} {more}")

    def add(self, size, work, results):
        (mine, _, my_peak), (theirs, _, their_peak) = (summary(turns) for turns in results.values())
        more = ["", ""]
        if self.before:
            before, *peaks = self.before
            growth = [(now - then) * 1024 / (size - before) for now, then in zip((my_peak, their_peak), peaks)]
            more = [f"{value:.1f} KB" for value in growth]
        self.before = size, my_peak, their_peak
        shares = [work.operations() / seconds / work.rate() for seconds in (mine, theirs)]
        print(
            f"  {size:10} {mine:8.3f} s {theirs:8.3f} s {mine / theirs:6.2f} {shares[0]:9.0%} {shares[1]:7.0%} "
            f"{my_peak:7.0f} MB {their_peak:7.0f} MB {my_peak / their_peak:6.2f} {more[0]:>11} {more[1]:>11}",
            flush=True,
        )


def parse():
    arguments = parser(__doc__)
    lengths = [256 << doublings for doublings in range(6)]
    arguments.add_argument("--lengths", type=int, nargs="*", default=lengths, help="tokens of the sequence")
    arguments.add_argument(
        "--vocabularies", type=int, nargs="*", default=[8192, 32768, 152064], help="tokens to choose from"
    )
    arguments.add_argument("--length", type=int, default=512, help="tokens of the sequence where vocabularies grow")
    arguments.add_argument("--repetitions", type=int, default=1, help="turns of each side")
    arguments.add_argument("--steps", type=int, default=2, help="timed steps a turn")
    return arguments.parse_args()


def main():
    options = parse()
    begin(options)
    print("Llama: width 256, 4 layers of 4 heads, inner width 688, embedding and head one matrix, single precision")
    sides, found = [Posterior(), PyTorch(variables=KEEP)], {}
    with tempfile.TemporaryDirectory() as name:
        by_length = [(length, length, 8192) for length in options.lengths]
        by_vocabulary = [(vocabulary, options.length, vocabulary) for vocabulary in options.vocabularies]
        for title, growing, unit, cases in [
            ("One sequence a step, vocabulary 8192", "tokens", "token", by_length),
            (f"One sequence of {options.length} tokens a step", "vocabulary", "entry", by_vocabulary),
        ]:
            table = Table(title, growing, unit) if cases else None
            for size, length, vocabulary in cases:
                work = Work(
                    options,
                    Path(name) / f"{growing}-{size}",
                    steps=WARM_UP + options.steps,
                    sequences=1,
                    length=length,
                    vocab_size=vocabulary,
                    **SIZE,
                )
                results = take_turns(work, sides, options.repetitions)
                check(work, results)
                table.add(size, work, results)
                facts = {"operations": work.operations(), "operations_per_second": work.rate()}
                found[f"{growing} {size}"] = {"sides": results, **facts}
    end(options, found)


if __name__ == "__main__":
    main()
