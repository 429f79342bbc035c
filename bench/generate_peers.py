"""The peers of generate.py, each in a process of its own and maybe in a Python of its own.

    generate_peers.py transformers|llama.cpp MODEL THREADS

Reads lines [prompts, tokens, samples] in JSON (no samples: one text a prompt, greedily) and answers each with the seconds that it took, the tokens, and the peak of its
memory."""

import json
import resource
import sys
import time
from pathlib import Path


class Transformers:
    """transformers as a Python session would use it: the file's numbers unpacked to single precision."""

    def __init__(self, file, threads):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        torch.set_num_threads(threads)
        self.torch, self.version = torch, f"transformers {transformers.__version__}"
        where = {"gguf_file": file.name}
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **where)
        model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **where, dtype=torch.float32)
        self.model = model.eval()

    def generate(self, prompts, tokens, samples):
        # All prompts have as many tokens, so nothing is padded.
        given = self.tokenizer(prompts, return_tensors="pt")
        assert given["attention_mask"].all(), "prompts of different lengths"
        began = time.perf_counter()
        with self.torch.inference_mode():
            how = {"do_sample": True, "num_return_sequences": samples, "top_k": 0} if samples else {"do_sample": False}
            whole = self.model.generate(**given, **how, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0)
        return time.perf_counter() - began, whole[:, given["input_ids"].shape[1] :].tolist()


class LlamaCpp:
    """llama.cpp by its Python package: the file's numbers as they are, one text at a time."""

    def __init__(self, file, threads):
        import llama_cpp

        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        settings = {"n_threads": threads, "n_threads_batch": threads, "n_gpu_layers": 0}
        self.model = llama_cpp.Llama(str(file), n_ctx=2048, verbose=False, **settings)

    def generate(self, prompts, tokens, _samples):
        [prompt] = prompts
        given = self.model.tokenize(prompt.encode(), add_bos=False)
        began = time.perf_counter()
        self.model.reset()
        self.model.eval(given)
        # No end is looked for, so that there are as many tokens as the other sides draw.
        found = [self.model.sample(temp=0.0)]
        while len(found) < tokens:
            self.model.eval(found[-1:])
            found.append(self.model.sample(temp=0.0))
        return time.perf_counter() - began, [found]


def main():
    kind, file, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    # Standard output is for answers, whatever a library may have to say.
    answers, sys.stdout = sys.stdout, sys.stderr
    side = {"transformers": Transformers, "llama.cpp": LlamaCpp}[kind](file, threads)
    print(json.dumps(side.version), file=answers, flush=True)
    for line in sys.stdin:
        seconds, texts = side.generate(*json.loads(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([seconds, texts, peak]), file=answers, flush=True)


if __name__ == "__main__":
    main()
