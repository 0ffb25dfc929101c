"""Muon for the hidden layers' matrices, AdamW for everything else.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by its nearest semi-orthogonal matrix, found with five
Newton-Schulz steps; the factor 0.2 sqrt(max(rows, columns)) (Liu et al. 2025) makes the update as large as AdamW's, so
that one learning rate serves both.
"""

import torch

from model import MaskedLM

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Approximate U V^T of each matrix U S V^T. [n, rows, columns] with rows <= columns."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon:
    """Works on stacks of matrices: parameters of shape [..., rows, columns]."""

    def __init__(self, parameters: list[torch.nn.Parameter], momentum: float, weight_decay: float, compiled: bool):
        self.parameters, self.momentum, self.weight_decay = parameters, momentum, weight_decay
        self.buffers = [torch.zeros_like(p) for p in parameters]
        self.orthogonalize = torch.compile(orthogonalize, dynamic=False) if compiled else orthogonalize

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        groups: dict[tuple[int, int], list] = {}
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            buffer.lerp_(parameter.grad, 1 - self.momentum)
            update = parameter.grad.lerp(buffer, self.momentum)  # Nesterov
            rows, columns = parameter.shape[-2:]
            update = update.view(-1, rows, columns)
            if rows > columns:
                update = update.mT
            groups.setdefault(tuple(update.shape[-2:]), []).append((parameter, update, rows > columns))
        for (_, columns), members in groups.items():
            updates = self.orthogonalize(torch.cat([update for _, update, _ in members]))
            parts = updates.split([len(update) for _, update, _ in members])
            for (parameter, _, transposed), part in zip(members, parts, strict=True):
                part = (part.mT if transposed else part).reshape(parameter.shape)
                parameter.mul_(1 - learning_rate * self.weight_decay)
                parameter.add_(part.to(parameter.dtype), alpha=-learning_rate * 0.2 * columns**0.5)


class Optimizer:
    """Both optimizers behind one learning rate."""

    def __init__(self, model: MaskedLM, muon: bool, compiled: bool, weight_decay: float = 0.01):
        matrices = model.matrices()
        ids = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in ids]
        groups = [{"params": rest, "weight_decay": 0.0}]
        if not muon:
            groups.append({"params": matrices, "weight_decay": weight_decay})
        self.muon = Muon(matrices, 0.95, weight_decay, compiled) if muon else None
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-8, fused=True)
        self.model = model

    def step(self, learning_rate: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        self.adam.step()
        if self.muon:
            self.muon.step(learning_rate)
        for parameter in self.model.parameters():
            parameter.grad = None

    def state(self) -> dict:
        return {"adam": self.adam.state_dict(), "muon": self.muon.buffers if self.muon else None}

    def load(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        if self.muon:
            for buffer, saved in zip(self.muon.buffers, state["muon"], strict=True):
                buffer.copy_(saved)
