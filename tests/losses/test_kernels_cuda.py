"""The Triton twin against the plain forms: through Triton's interpreter, and on a GPU as is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from hyperfocal.losses import EqualizedFocalLoss, sigmoid_focal_loss
from hyperfocal.losses.kernels import cpu, cuda

triton = pytest.importorskip("triton")

# In a process of its own: Triton reads TRITON_INTERPRET when it is imported.
INTERPRETED = """
import torch
from hyperfocal.losses.kernels import cuda, plain

torch.manual_seed(0)
close = torch.testing.assert_close
for rows, cols in ((1, 1), (37, 5), (130, 80), (9, 300)):
    x = torch.randn(rows, cols) * 6
    x.flatten()[:4] = torch.tensor([1e4, -1e4, 90.0, -90.0])[: x.numel()]
    labels, quality = torch.randint(-1, cols + 1, (rows,)), torch.rand(rows)
    # Rough in float32: the interpreter rounds twice in a fused multiply-add, and p - q cancels.
    for dtype, rtol in ((torch.float32, 1e-4), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)):
        for gamma in (0.0, 2.0, torch.rand(cols) * 10):
            for q in (None, quality):
                table = torch.rand(3, cols)
                table[0] = gamma
                given = (x.to(dtype), labels, table, q, 0, cols)
                got, want = torch.empty_like(given[0]), torch.empty_like(given[0])
                uniform = None if isinstance(gamma, torch.Tensor) else gamma
                loss, sums, _ = cuda.sigmoid_sum(*given, got, True, gamma=uniform)
                true, true_sums, _ = plain.sigmoid_sum(*given, want, True)
                close(loss, true, rtol=1e-5, atol=0)
                least = 4 * torch.finfo(dtype).tiny if q is None else 1e-5
                close(got, want, rtol=rtol, atol=least)
                close(sums, true_sums, rtol=rtol, atol=1e-6)
                value, none, _ = cuda.sigmoid_sum(*given, None, False, gamma=uniform)
                assert value.equal(loss) and (none == 0).all()

# A run of categories of a wider problem, in place of the logits.
x, labels, table = torch.randn(50, 20), torch.randint(-1, 101, (50,)), torch.rand(3, 20)
want = torch.empty_like(x)
true, _, _ = plain.sigmoid_sum(x, labels, table, None, 40, 100, want, False)
loss, _, _ = cuda.sigmoid_sum(x, labels, table, None, 40, 100, x, False)
close(loss, true, rtol=1e-5, atol=0)
close(x, want, rtol=1e-4, atol=1e-30)

x = torch.randn(5000)
assert cuda.scale_in_place(x.clone(), torch.tensor(3.0)).equal(3 * x)
assert cuda.scale_in_place(x.clone(), torch.tensor(1.0)).equal(x)
print("same")
"""


@pytest.mark.slow
def test_interpreted_kernel_equals_the_plain_forms():
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "same\n", run.stderr


def test_kernel_compiles_for_a_gpu_that_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hyperfocal.losses.kernels.sigmoid_triton import sigmoid_sum_kernel

    pointers = dict.fromkeys(("table", "quality", "errors", "losses", "sums"), "*fp32")
    sizes = dict.fromkeys(("rows", "cols", "stride", "first"), "i32")
    signature = {"logits": "*bf16", "labels": "*i64", "grad": "*bf16", **pointers, **sizes}
    constants = {"POWER": -1, "WITH_QUALITY": True, "WITH_GRAD": True, "WITH_SUMS": True}
    constants |= {"ROWS": 16, "COLS": 128}
    names = sigmoid_sum_kernel.arg_names
    source = ASTSource(
        fn=sigmoid_sum_kernel,
        signature={n: signature.get(n, "constexpr") for n in names},
        constexprs={(names.index(n),): value for n, value in constants.items()},
    )
    assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]


@pytest.mark.parametrize(
    ("cols", "width"),
    [(1, 16), (16, 16), (80, 16), (128, 128), (365, 128), (1203, 128), (13204, 128)],
)
def test_column_blocks_leave_few_lanes_idle(cols, width):
    assert cuda._block_cols(cols) == width


def test_not_available_without_a_gpu():
    assert cuda.available() == torch.cuda.is_available()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(100_000, 80), (3000, 1203)])
def test_on_a_gpu(shape, dtype):
    x = (torch.randn(*shape, device="cuda") * 4).to(dtype).requires_grad_()
    labels = torch.randint(-1, shape[1] + 1, shape[:1], device="cuda")
    grads = []
    for backend in ("plain", "fused"):
        value = sigmoid_focal_loss(x, labels, reduction="sum", backend=backend)
        grads.append((value, *torch.autograd.grad(value, x)))
    torch.testing.assert_close(grads[1][0], grads[0][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(grads[1][1], grads[0][1], rtol=1e-2, atol=1e-6)
    plain, fused = (EqualizedFocalLoss(shape[1], backend=b).cuda() for b in ("plain", "fused"))
    for loss in (plain, fused):
        loss(x, labels, 5.0)
    torch.testing.assert_close(fused.pending_neg, plain.pending_neg, rtol=1e-4, atol=1e-9)


def test_cpu_and_cuda_take_the_same_arguments():
    if not cpu.available():
        pytest.skip("no C++ compiler")
    x, labels, table = torch.randn(7, 3), torch.tensor([0, 1, 2, 3, -1, 3, 0]), torch.rand(3, 3)
    loss, sums, bad_row = cpu.sigmoid_sum(x, labels, table, None, 0, 3, torch.empty(7, 3), True)
    assert loss.shape == ()
    assert sums.shape == (2, 3)
    assert bad_row == -1
