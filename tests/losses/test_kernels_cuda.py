"""The Triton kernel against the plain forms: through Triton's interpreter, and on a GPU as is."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch

from hyperfocal.losses import EqualizedFocalLoss, quality_focal_loss, sigmoid_focal_loss
from hyperfocal.losses.kernels import cpu, cuda, plain
from hyperfocal.losses.kernels import tiling as tiling_module
from hyperfocal.losses.kernels.tiling import Kind, Tiling, best_tiling, candidates, recall

triton = pytest.importorskip("triton")

# In a process of its own: Triton reads TRITON_INTERPRET when it is imported.
INTERPRETED = """
import sys
import torch
from hyperfocal.losses.kernels import cuda, plain
from hyperfocal.losses.kernels.tiling import Tiling

torch.manual_seed(0)
close = torch.testing.assert_close
rows, cols, chunks = map(int, sys.argv[1:])
x = torch.randn(rows, cols) * 6 - 2
x.flatten()[:4] = torch.tensor([1e4, -1e4, 90.0, -90.0])[: x.numel()]
labels, quality = torch.randint(-1, cols + 1, (rows,)), torch.rand(rows)
labels[torch.rand(rows) < 0.7] = cols
# Loss and sums before rounding, the gradient as it is rounded. (The interpreter rounds twice in a
# fused multiply-add, so float32 is a little off what a GPU computes.)
for dtype, near, rtol in (
    (torch.float32, 4e-6, 1e-5), (torch.bfloat16, 1e-4, 2**-7), (torch.float16, 1e-4, 2**-9)
):
    tiling = Tiling(16 // dtype.itemsize, chunks, 1, 2)
    for gamma, q in ((0.0, None), (2.0, quality), (2.0, None), (torch.rand(cols) * 9, None)):
        table = torch.rand(3, cols)
        table[0] = gamma
        given = (x.to(dtype), labels.int() if q is None else labels, table, q, 0, cols)
        got, want = torch.full_like(given[0], 99), torch.empty_like(given[0])
        uniform = None if isinstance(gamma, torch.Tensor) else gamma
        wide = (given[0].double(), labels, table.double(), q if q is None else q.double(), 0, cols)
        true, true_sums, _ = plain.sigmoid_sum(*wide, torch.empty_like(wide[0]), True)
        plain.sigmoid_sum(given[0], labels, table, q, 0, cols, want, False)
        loss, sums, _ = cuda.sigmoid_sum(*given, got, True, gamma=uniform, tiling=tiling)
        close(loss, true.float(), rtol=near, atol=0)
        close(sums, true_sums.float(), rtol=10 * near, atol=1e-6)
        close(got, want, rtol=rtol, atol=4 * torch.finfo(dtype).tiny if q is None else 1e-5)
        if rows > 1:
            value, none, _ = cuda.sigmoid_sum(*given, None, False, gamma=uniform, tiling=tiling)
            close(value, loss, rtol=1e-6, atol=0)
            assert (none == 0).all()
print("same")
"""

STREAMED = """
import torch
from hyperfocal.losses.kernels import cuda, plain
from hyperfocal.losses.kernels.tiling import Tiling

close = torch.testing.assert_close
# A run of categories of a wider problem, in place of the logits.
x, labels, table = torch.randn(50, 20), torch.randint(-1, 101, (50,)), torch.rand(3, 20)
want = torch.empty_like(x)
true, _, _ = plain.sigmoid_sum(x, labels, table, None, 40, 100, want, False)
loss, _, _ = cuda.sigmoid_sum(x, labels, table, None, 40, 100, x, False)
close(loss, true, rtol=1e-5, atol=0)
close(x, want, rtol=1e-4, atol=1e-30)

# Labels outside what there is: background above, ignored below.
x, table = torch.randn(5, 3), torch.rand(3, 3)
got, want = torch.empty_like(x), torch.empty_like(x)
wild = torch.tensor([0, 2**40, -7, 3, 1])
cuda.sigmoid_sum(x, wild, table, None, 0, 3, got, False)
plain.sigmoid_sum(x, torch.tensor([0, 3, -1, 3, 1]), table, None, 0, 3, want, False)
close(got, want, rtol=1e-4, atol=1e-30)

# Infinite logits: certain negatives, with every power; what is ignored may be anything.
for dtype in (torch.float32, torch.bfloat16):
    for gamma in (0.0, 2.0, None):
        x = torch.full((4, 3), -torch.inf, dtype=dtype)
        x[2] = torch.nan
        labels, table = torch.tensor([3, 3, -1, 3]), torch.ones(3, 3)
        table[0] = torch.tensor([0.0, 0.5, 7.0]) if gamma is None else gamma
        grad = torch.full_like(x, 99)
        loss, _, _ = cuda.sigmoid_sum(x, labels, table, None, 0, 3, grad, False, gamma)
        assert loss == 0 and (grad == 0).all(), (dtype, gamma, loss, grad)
        # A logit that isn't a number shows in the loss.
        loss, _, _ = cuda.sigmoid_sum(
            x, labels.clamp(min=3), table, None, 0, 3, grad, False, gamma, Tiling(1, 4, 1, 2)
        )
        assert loss.isnan() and grad[2].isnan().all()

none = torch.randn(0, 5)
loss, sums, _ = cuda.sigmoid_sum(
    none, torch.zeros(0).long(), torch.ones(3, 5), None, 0, 5, none.clone(), True
)
assert loss == 0 and (sums == 0).all()

x = torch.randn(40000)
assert cuda.scale_in_place(x.clone(), torch.tensor(3.0)).equal(3 * x)
assert cuda.scale_in_place(x.clone(), torch.tensor(1.0)).equal(x)

for rows, cols in ((100, 21), (3, 300), (50, 1), (0, 4)):
    x, added = torch.randn(rows, cols), torch.randn(cols)
    got = x.clone()
    cuda.add_to_columns(got, added, Tiling(4, 16, 1, 2))
    assert got.equal(x + added)
print("same")
"""


def interpreted(code: str, *words: object) -> None:
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "same\n", run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "cols", "chunks"),
    [(1, 1, 16), (333, 1, 64), (37, 7, 16), (100, 80, 128), (3, 1203, 512)],
)
def test_interpreted_kernel_equals_the_plain_forms(rows, cols, chunks):
    interpreted(INTERPRETED, rows, cols, chunks)


@pytest.mark.slow
def test_interpreted_kernel_on_runs_of_categories_and_strange_values():
    interpreted(STREAMED)


@pytest.mark.parametrize("power", [0, 2, -1])
def test_kernel_compiles_for_a_gpu_that_is_not_here(tmp_path, monkeypatch, power):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hyperfocal.losses.kernels.sigmoid_triton import sigmoid_sum_kernel

    pointers = dict.fromkeys(("table", "quality", "errors", "losses", "sums"), "*fp32")
    sizes = dict.fromkeys(("cols", "steps", "step", "row_step", "first", "background"), "i32")
    signature = {"logits": "*bf16", "labels": "*i64", "grad": "*bf16", "size": "i64"}
    signature |= pointers | sizes
    constants = {"POWER": power, "WITH_QUALITY": power == 2, "WITH_GRAD": True, "WITH_SUMS": True}
    constants |= {"DIGITS": 5 if power < 0 else 4, "HARDWARE": True}
    constants |= {"ROWS": 2, "V": 8, "CHUNKS": 32}
    names = sigmoid_sum_kernel.arg_names
    aligned = [i for i, n in enumerate(names) if signature.get(n, "")[:1] == "*"]
    source = ASTSource(
        fn=sigmoid_sum_kernel,
        signature={n: signature.get(n, "constexpr") for n in names},
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 1})
    # Logits move 16 bytes at a time, although rows of no length in particular start anywhere.
    assert "ld.global.v4.b32" in made.asm["ptx"]
    assert "st.global.v4.b32" in made.asm["ptx"]


KINDS = [
    Kind(dtype, *flags)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    for flags in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize("cols", [1, 2, 7, 8, 80, 365, 1203, 13204])
@pytest.mark.parametrize("size", [0, 1, 5000, 10**6, 2**31 + 2**20, 2**36])
def test_lanes_keep_their_columns_and_reach_everything(cols, size):
    size = size // cols * cols
    for tiling in {tiling for kind in KINDS for tiling in candidates(kind)}:
        elements, step, programs = tiling.cut(size, cols, processors=132)
        assert step * elements % cols == 0
        assert (programs - 1) * tiling.chunks < step <= programs * tiling.chunks
        rounds = size // elements // step
        assert size - rounds * step * elements <= step * elements
        assert elements == 1 or cols >= elements - 1  # a chunk touches two rows at most
        assert step * elements < 2**31  # a lane's place is a 32-bit number, its base isn't


def test_chunks_are_loads_of_16_bytes_at_most():
    for kind in KINDS:
        assert len(candidates(kind)) == len(set(candidates(kind))) > 1
        assert all(t.elements * kind.dtype.itemsize <= 16 for t in candidates(kind))


CHOICES = candidates(Kind(torch.bfloat16, True, True, True))


def test_the_tiling_once_found_is_kept(tmp_path):
    path = tmp_path / "deep" / "tiling.json"
    assert recall(path, CHOICES, lambda: CHOICES[1]) == CHOICES[1]
    assert recall(path, CHOICES, lambda: pytest.fail("known")) == CHOICES[1]
    assert list(path.parent.iterdir()) == [path]
    for broken in ("{ broken", "[]", '{"elements": 8, "size": 3}'):
        path.write_text(broken)
        assert recall(path, CHOICES, lambda: CHOICES[2]) == CHOICES[2]
        assert recall(path, CHOICES, lambda: pytest.fail("known")) == CHOICES[2]


def test_no_tiling_is_sought_where_it_cannot_be_kept(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "tiling.json"
    assert recall(path, CHOICES, lambda: pytest.fail("sought")) == CHOICES[0]


def test_processes_that_seek_at_once_agree(tmp_path):
    path = tmp_path / "tiling.json"

    def slow() -> Tiling:
        recall(path, CHOICES, lambda: CHOICES[1])  # another process, meanwhile
        return CHOICES[2]

    assert recall(path, CHOICES, slow) == CHOICES[1]


def test_the_fastest_of_the_candidates_is_found(monkeypatch):
    """With a fake clock, which each tiling advances by its own time."""
    now, kind = [0.0], Kind(torch.bfloat16, True, True, False)
    times = dict(zip(candidates(kind), (3.0, 1.0, 2.0), strict=True))

    class Event:
        def record(self):
            self.at = now[0]

        def synchronize(self):
            pass

        def elapsed_time(self, later):
            return later.at - self.at

    def solver(logits, labels, table, quality, first, background, grad, sums, gamma, tiling):
        assert logits.shape == grad.shape == (len(labels), background)
        assert table.shape == (3, background)
        assert (labels == background).all()
        assert (quality, first, sums, gamma) == (None, 0, True, None)
        assert background % 8
        now[0] += times[tiling]

    monkeypatch.setattr(tiling_module, "TIMED_ROWS", 5)
    monkeypatch.setattr(tiling_module, "_event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    best = tiling_module._fastest(torch.device("cpu"), kind, solver)
    assert times[best] == 1.0


def test_small_problems_take_the_first_tiling():
    for dtype, cols, aligned in ((torch.float32, 80, True), (torch.bfloat16, 1203, False)):
        choice = best_tiling(
            torch.zeros(9, cols, dtype=dtype), False, False, lambda *_: pytest.fail("timed")
        )
        assert choice == candidates(Kind(dtype, False, False, aligned))[0]


def test_not_available_without_a_gpu():
    assert cuda.available() == torch.cuda.is_available()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(100_000, 80), (3001, 1203), (5003, 7), (5001, 1)])
def test_on_a_gpu(shape, dtype):
    x = (torch.randn(*shape, device="cuda") * 4 - 2).to(dtype).requires_grad_()
    labels = torch.randint(-1, shape[1] + 1, shape[:1], device="cuda")
    labels[torch.rand(shape[0], device="cuda") < 0.8] = shape[1]
    quality = torch.rand(shape[0], device="cuda")
    for loss, extra in ((sigmoid_focal_loss, {}), (quality_focal_loss, {"quality": quality})):
        found = []
        for backend in ("plain", "fused"):
            value = loss(x, labels, reduction="sum", backend=backend, **extra)
            found.append((value, *torch.autograd.grad(value, x)))
        torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-2, atol=1e-6)
    plains, fused = (EqualizedFocalLoss(shape[1], backend=b).cuda() for b in ("plain", "fused"))
    for loss in (plains, fused):
        loss.ratio.copy_(torch.linspace(0, 1, shape[1]))
        loss(x, labels, 5.0)
    torch.testing.assert_close(fused.pending_neg, plains.pending_neg, rtol=1e-3, atol=1e-9)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("gamma", [0.0, 2.0, None])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 4e-6), (torch.bfloat16, 1e-4)])
def test_arithmetic_on_a_gpu(gamma, dtype, near):
    x = (torch.randn(20_000, 80, device="cuda") * 5 - 4).to(dtype)
    labels = torch.randint(-1, 81, (20_000,), device="cuda")
    labels[torch.rand(20_000, device="cuda") < 0.8] = 80
    table = torch.rand(3, 80, device="cuda") + 0.1
    table[0] = torch.rand(80, device="cuda") * 9 if gamma is None else gamma
    want = torch.empty(x.shape, device="cuda", dtype=torch.float64)
    true, true_sums, _ = plain.sigmoid_sum(x.double(), labels, table.double(), None, 0, 80, want, 1)
    for tiling in candidates(Kind(dtype, gamma is None, True, True)):
        grad = torch.full_like(x, 99)
        given = (x, labels, table, None, 0, 80)
        loss, sums, _ = cuda.sigmoid_sum(*given, grad, True, gamma, tiling)
        again, sums_again, _ = cuda.sigmoid_sum(*given, grad, True, gamma, tiling)
        assert again.equal(loss)
        assert sums_again.equal(sums)
        assert math.isclose(loss.item(), true.item(), rel_tol=near)
        torch.testing.assert_close(sums, true_sums.float(), rtol=near, atol=1e-6)
        rounding = 2**-8 if dtype == torch.bfloat16 else 0.0
        torch.testing.assert_close(grad.double(), want, rtol=near + rounding, atol=1e-30)


@pytest.mark.gpu
@needs_gpu
def test_more_logits_than_32_bits_count():
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB")
    rows = 2**31 // 80 + 1000
    x = torch.full((rows, 80), -4.0, device="cuda", dtype=torch.bfloat16)
    labels = torch.full((rows,), 80, device="cuda")
    x[-5:], labels[-5:] = 1.0, torch.arange(5, device="cuda")
    grad, table = torch.empty_like(x), torch.ones(3, 80, device="cuda")
    cuda.sigmoid_sum(x, labels, table, None, 0, 80, grad, False)
    want = torch.empty_like(x[-100:])
    plain.sigmoid_sum(x[-100:], labels[-100:], table, None, 0, 80, want, False)
    torch.testing.assert_close(grad[-100:], want, rtol=1e-2, atol=1e-6)
    assert all((part == grad[0, 0]).all() for part in grad[:-5].split(1 << 22))


def test_cpu_and_cuda_take_the_same_arguments():
    if not cpu.available():
        pytest.skip("no C++ compiler")
    x, labels, table = torch.randn(7, 3), torch.tensor([0, 1, 2, 3, -1, 3, 0]), torch.rand(3, 3)
    loss, sums, bad_row = cpu.sigmoid_sum(x, labels, table, None, 0, 3, torch.empty(7, 3), True)
    assert loss.shape == ()
    assert sums.shape == (2, 3)
    assert bad_row == -1
