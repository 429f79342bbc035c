"""PyTorch's side of dit.py: waits for work on standard input, answers in JSON on standard output.

The network is parity/dit.py, which parity/test_dit.py holds to the project's. PyTorch is used as well as it can be:
scaled_dot_product_attention, fused AdamW, the averages of all weights in one call, inference mode for sampling.
"""

import json
import resource
import sys
import time
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))
import dit  # noqa: E402  (it lies there)

EMA_DECAY = 0.999


class Side:
    def __init__(self, directory, settings):
        torch.set_num_threads(settings["threads"])
        self.settings = settings
        model = directory / "run-1/model"
        config = json.loads((model / "config.json").read_text())
        self.network = dit.Dit(**{key: value for key, value in config["network"].items() if key != "kind"})
        self.network.load_state_dict(dit.from_project(load_file(model / "model.safetensors")))
        self.data_std = config["data"]["root_mean_square"]
        images = np.load(directory / "data.npy").reshape(2000, -1)
        self.data = torch.tensor(images.astype(np.float32) / 127.5 - 1)
        self.forward = torch.compile(self.network) if settings["compiled"] else self.network
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, fused=True)
        self.average = [parameter.detach().clone() for parameter in self.network.parameters()]
        self.scheduler = DDIMScheduler.from_config(json.loads((directory / "scheduler_config.json").read_text()))

    def train(self, steps):
        """The seconds of each step: noisy examples, forward, backward, clipping, AdamW, average."""
        parameters = list(self.network.parameters())
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            clean = self.data[torch.randint(len(self.data), (self.settings["batch"],))]
            # Karras et al. 2022, table 1, as the program has it.
            sigma = (torch.randn(len(clean), 1) * 1.4 - 0.8).exp()
            total = (sigma.square() + self.data_std**2).sqrt()
            state = clean + sigma * torch.randn_like(clean)
            target = (clean - (self.data_std / total).square() * state) / (sigma * self.data_std / total)
            output = self.forward(state / total, sigma[:, 0].double().log() / 4)
            loss = (output - target).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, parameters, 1 - EMA_DECAY)
            loss.item()
            seconds.append(time.perf_counter() - began)
        return seconds

    @torch.inference_mode()
    def sample(self, times):
        """The seconds of each batch of samples."""
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            state = torch.randn(self.settings["samples"], self.data.shape[1])
            self.scheduler.set_timesteps(self.settings["sampling_steps"])
            for timestep in self.scheduler.timesteps:
                alpha_bar = self.scheduler.alphas_cumprod[timestep].item()
                sigma = ((1 - alpha_bar) / alpha_bar) ** 0.5
                total = (sigma**2 + self.data_std**2) ** 0.5
                # The variance-exploding state, which the network knows, is this one over sqrt(abar).
                exploding = state / alpha_bar**0.5
                noise = torch.full([len(state)], dit.sigma_to_noise(sigma), dtype=torch.float64)
                output = self.forward(exploding / total, noise)
                denoised = (self.data_std / total) ** 2 * exploding + sigma * self.data_std / total * output
                state = self.scheduler.step(denoised, timestep, state).prev_sample
            seconds.append(time.perf_counter() - began)
        return seconds


def product_rate():
    """Operations a second of a large product, the best of ten."""
    left, right = torch.randn(2, 2048, 2048)
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        left @ right
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    return best


def main():
    directory, work, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    side = Side(directory, settings)
    for line in sys.stdin:
        request, *count = line.split()
        if request == "facts":
            parameters = sum(parameter.numel() for parameter in side.network.parameters())
            answer = {"torch": torch.__version__, "diffusers": diffusers.__version__, "parameters": parameters}
        elif request == "memory":
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        elif request == "rate":
            answer = product_rate()
        else:
            assert request == work
            answer = side.train(int(count[0])) if work == "train" else side.sample(int(count[0]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
