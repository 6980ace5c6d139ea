"""Two processes with a part of the batch each do what one batch norm does with the whole batch."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pas_train.backbones import has_batch_norm
from pas_train.synchronised_norm import SynchronisedBatchNorm, synchronise_batch_norms

CPU = torch.device("cpu")
NORMS = {
    "1d": (lambda: nn.BatchNorm1d(5), (12, 5)),
    "1d-sequence": (lambda: nn.BatchNorm1d(5), (12, 5, 3)),
    "2d": (lambda: nn.BatchNorm2d(5, eps=1e-3, momentum=0.3), (12, 5, 4, 3)),
    "no-affine": (lambda: nn.BatchNorm1d(5, affine=False), (12, 5)),
    "cumulative": (lambda: nn.BatchNorm2d(5, momentum=None), (12, 5, 2, 2)),
    "untracked": (lambda: nn.BatchNorm1d(5, track_running_stats=False), (12, 5)),
}


def together(norm: nn.Module) -> nn.Sequential:
    """A synchronised copy, inside a parent."""
    parent = nn.Sequential(copy.deepcopy(norm))
    synchronise_batch_norms(parent, CPU)
    return parent


def meet(rank: int) -> None:
    torch.manual_seed(0)
    dist.init_process_group("gloo")


def compare(norm: nn.Module, shape: tuple[int, ...], part: slice) -> None:
    """Three training batches: outputs, gradients of inputs and parameters, running statistics; then evaluation."""
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias)
    synchronised = together(norm)
    for _ in range(3):
        whole = (torch.randn(shape) * 3 + 2).requires_grad_()
        share = whole.detach()[part].requires_grad_()
        target = torch.randn(shape)
        expected, output = norm(whole), synchronised(share)
        (expected * target).sum().backward()
        (output * target[part]).sum().backward()
        torch.testing.assert_close(output, expected[part], atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(share.grad, whole.grad[part], atol=5e-6, rtol=1e-4)
    for own, all_rows in zip(synchronised.parameters(), norm.parameters(), strict=True):
        dist.all_reduce(own.grad)
        torch.testing.assert_close(own.grad, all_rows.grad, atol=2e-5, rtol=1e-4)
    for own, all_rows in zip(synchronised[0].buffers(), norm.buffers(), strict=True):
        torch.testing.assert_close(own, all_rows, atol=2e-6, rtol=1e-5)
    if norm.track_running_stats:
        held = torch.randn(shape)
        torch.testing.assert_close(synchronised.eval()(held), norm.eval()(held), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("split", [6, 9], ids=["equal", "uneven"])
def test_synchronised_batch_norm__two_parts_equal_the_whole_batch(two_ranks, split: int) -> None:
    def work(rank: int) -> None:
        meet(rank)
        for make, shape in NORMS.values():
            compare(make(), shape, slice(0, split) if rank == 0 else slice(split, None))

    two_ranks(work)


def test_synchronised_batch_norm__activation_inside_and_half_precision(two_ranks) -> None:
    from timm.layers import BatchNormAct2d

    def work(rank: int) -> None:
        meet(rank)
        norm, whole = BatchNormAct2d(4), torch.randn(8, 4, 3, 3)
        share = whole[rank * 4 : rank * 4 + 4]
        torch.testing.assert_close(together(norm)(share), norm(whole)[rank * 4 : rank * 4 + 4])
        plain = nn.BatchNorm2d(4)
        expected = plain(whole.bfloat16().float())[rank * 4 : rank * 4 + 4]
        with torch.autocast("cpu", torch.bfloat16):
            output = together(nn.BatchNorm2d(4))(share.bfloat16())
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output, expected.bfloat16(), atol=0.02, rtol=0.01)

    two_ranks(work)


def test_synchronise_batch_norms__names_and_tensors_stay() -> None:
    module = nn.ModuleDict({"a": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "b": nn.BatchNorm2d(2).eval()})
    before = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    keys = list(module.state_dict())
    synchronise_batch_norms(module, CPU)
    synchronise_batch_norms(module, CPU)  # a second time changes nothing
    after = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert list(module.state_dict()) == keys and all(after[name] is before[name] for name in before)
    assert isinstance(module["b"], SynchronisedBatchNorm) and not module["b"].training and module["a"][1].training
    assert has_batch_norm(module)


def test_synchronised_batch_norm__alone_is_batch_norm() -> None:
    norm, rows = nn.BatchNorm1d(4), torch.randn(6, 4)
    alone = together(norm)
    assert torch.equal(alone(rows), norm(rows)) and torch.equal(alone[0].running_var, norm.running_var)


@pytest.mark.gpu
def test_synchronise_batch_norms__cuda_takes_torchs_own() -> None:
    from timm.layers import BatchNormAct2d

    module = nn.Sequential(nn.BatchNorm2d(3), BatchNormAct2d(3)).cuda()
    expected = copy.deepcopy(module)
    synchronise_batch_norms(module, torch.device("cuda"))
    rows = torch.randn(4, 3, 5, 5, device="cuda")
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in module)
    torch.testing.assert_close(module(rows), expected(rows))
