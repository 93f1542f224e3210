"""A loop of its own: parameters with defaults, metrics and progress by hand."""

import torch

from trainwright.jobs import tlab_trainer


@tlab_trainer.job_wrapper(manual_logging=True)
def train():
    params = tlab_trainer.params
    steps = int(params.get("steps", 20))
    rate = float(params.learning_rate or 1e-2)
    torch.manual_seed(int(params.seed or 0))
    layer = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate)
    x = torch.randn(64, 4)
    for step in range(steps):
        loss = ((layer(x).squeeze() - x.sum(1)) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tlab_trainer.log_metric("train/loss", loss.item(), step)
        tlab_trainer.progress_update(100 * (step + 1) / steps)
    torch.save(layer.state_dict(), tlab_trainer.params.output_dir + ".pt")
    return {"loss": loss.item()}


train()
