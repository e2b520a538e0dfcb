"""The block-scaled product against the exact product of the dequantised operands."""

import itertools

import pytest
import torch

from r1pipe_kernels.formats import E4M3, empty_codes
from r1pipe_kernels.gemm import ops, reference, table, tiles
from r1pipe_kernels.quantise import ops as quantise

SHAPES = pytest.mark.parametrize("shape", [(1, 128, 128), (70, 200, 300), (5, 576, 260)])


def relative(got, want):
    return float((got.double() - want).norm() / want.norm())


@SHAPES
def test_forward_is_the_product_of_the_dequantised_operands(shape):
    m, n, k = shape
    torch.manual_seed(0)
    x, w = torch.randn(m, k), torch.randn(n, k)
    a, b = quantise.quantise_rows(x), quantise.quantise_weight(w)[:2]
    want = reference.exact(*a, *b, rows=False)
    assert relative(ops.gemm(*a, *b, torch.float32), want) < 1e-6
    assert relative(ops.gemm(*a, *b, torch.bfloat16), want) < 2e-3
    # 3.7 % is what E4M3 costs on Gaussian data: it tells a wrong recipe from a wrong kernel.
    assert relative(want, x.double() @ w.double().t()) == pytest.approx(0.037, abs=0.008)


@SHAPES
def test_gradients_of_a_linear_layer(shape):
    m, n, k = shape
    x, w, dy = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
    _, _, xt, xt_s = quantise.quantise_both(x)
    d, d_s, dt, dt_s = quantise.quantise_both(dy)
    _, _, wt, wt_s = quantise.quantise_weight(w)
    assert relative(ops.gemm(d, d_s, wt, wt_s, torch.float32), (dy @ w).double()) < 0.05
    main = torch.ones(n, k)
    ops.gemm_rows_into(main, dt, dt_s, xt, xt_s)
    exact = reference.exact(dt, dt_s, xt, xt_s, rows=True)
    assert relative(main - 1, exact) < 1e-4
    assert relative(ops.gemm_rows(dt, dt_s, xt, xt_s, torch.float32), exact) < 1e-6


def test_zero_blocks_give_zeros_and_nan_stays_in_its_row():
    x, w = torch.randn(4, 256), torch.randn(8, 256)
    x[1] = 0
    x[2, 7] = float("nan")
    out = ops.gemm(*quantise.quantise_rows(x), *quantise.quantise_weight(w)[:2], torch.float32)
    assert (out[1] == 0).all() and out[2].isnan().all()
    assert out[0].isfinite().all() and out[3].isfinite().all()


def test_nothing_to_reduce_gives_zeros_and_leaves_a_main_gradient():
    a, b = torch.zeros(3, 0).to(E4M3), torch.zeros(5, 0).to(E4M3)
    a, b = empty_codes(3, 0, a.float()), empty_codes(5, 0, b.float())
    out = ops.gemm(a, torch.zeros(0, 4)[:, :3], b, torch.zeros(1, 0), torch.float32)
    assert out.shape == (3, 5) and (out == 0).all()


def test_operands_that_do_not_fit_are_refused_by_name():
    a, a_s = quantise.quantise_rows(torch.randn(4, 256))
    b, b_s, _, _ = quantise.quantise_weight(torch.randn(8, 256))
    with pytest.raises(ValueError, match="gemm: a has 256 columns, b 128"):
        ops.gemm(a, a_s, b[:, :128], b_s, torch.float32)
    with pytest.raises(ValueError, match=r"scales of a must be fp32 \(2, 4\)"):
        ops.gemm(a, a_s[:1], b, b_s, torch.float32)
    with pytest.raises(ValueError, match=r"b must hold E4M3 codes, got torch\.float32"):
        ops.gemm(a, a_s, b.float(), b_s, torch.float32)
    with pytest.raises(ValueError, match="rows must be contiguous"):
        ops.gemm(a, a_s, b[:, ::2], b_s, torch.float32)
    with pytest.raises(ValueError, match="output must be bf16 or fp32"):
        ops.gemm(a, a_s, b, b_s, torch.float16)
    with pytest.raises(ValueError, match="c must be fp32"):
        ops.gemm_into(torch.zeros(4, 8).bfloat16(), a, a_s, b, b_s)


def test_operators_are_traceable():
    a = quantise.quantise_rows(torch.randn(33, 200))
    b = quantise.quantise_weight(torch.randn(40, 200))[:2]
    torch.library.opcheck(ops.gemm, (*a, *b, torch.bfloat16), test_utils="test_faketensor")


def test_compiles_in_one_graph():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def forward(x, w):
        a, b = quantise.quantise_rows(x), quantise.quantise_weight(w)
        return ops.gemm(a[0], a[1], b[0], b[1], torch.float32)

    x, w = torch.randn(20, 256), torch.randn(40, 256)
    want = ops.gemm(*quantise.quantise_rows(x), *quantise.quantise_weight(w)[:2], torch.float32)
    assert torch.equal(forward(x, w), want)


def walked(m, n, tile, processors):
    """Every strip and column that the kernel's schedule visits; mirrors `tile_at`."""
    rows = tiles.split_rows(m, n, tile, processors)
    strips, num_n = -(-m // 64), -(-n // tile.columns)
    tall, short = rows.tall * num_n, rows.short * num_n
    extra, seen, load = tall % processors, [], []
    idle = processors - extra
    for p in range(processors):
        mine = tall // processors + (p < extra)
        rest = -(-max(short - 2 * idle - p, 0) // processors)
        early = min(-(-max(short - (p - extra), 0) // idle), 2) if p >= extra else 0
        units = 0
        for i in range(mine + rest + early):
            if i < mine:
                t = i * processors + p
                width = tile.group * num_n
                first = t // width * tile.group
                height_of_group = min(rows.tall - first, tile.group)
                strip = (first + t % width % height_of_group) * tile.strips
                column, limit = t % width // height_of_group, tile.strips
            else:
                j = i - mine
                late = 2 * idle + p + j * processors - (2 * processors if p >= extra else 0)
                t = p - extra + j * idle if p >= extra and j < 2 else late
                strip = rows.tall * tile.strips + t % rows.short * (tile.strips - 1)
                column, limit = t // rows.short, tile.strips - 1
            height = min(strips - strip, limit)
            assert height > 0
            seen += [(s, column) for s in range(strip, strip + height)]
            units += height
        load.append(units)
    return seen, load, strips * num_n


@pytest.mark.parametrize("m", [1, 64, 65, 200, 333, 1000, 4096, 5000, 8192])
@pytest.mark.parametrize("n", [64, 576, 2112, 7168])
@pytest.mark.parametrize("processors", [1, 7, 132])
def test_schedule_visits_every_strip_once(m, n, processors):
    for tile in (tiles.Tile(3, 128, 4), tiles.Tile(2, 128, 5), tiles.Tile(1, 64, 8)):
        seen, load, total = walked(m, n, tile, processors)
        assert len(seen) == len(set(seen)) == total
        # No CTA is more than a tile behind the average.
        assert max(load) <= total / processors + 2 * tile.strips


@pytest.mark.parametrize("m", [1, 64, 100, 4096])
@pytest.mark.parametrize("vector", [False, True])
def test_chosen_tiles_fit_shared_memory(m, vector):
    for n, k in [(2112, 7168), (24576, 1536), (128, 128)]:
        tile = tiles.choose_tile(m, n, k, vector, 132)
        assert tile.shared_bytes(vector, 2) <= tiles.SHARED_BYTES


def test_the_table_holds_measured_classes_and_the_rule_the_rest():
    for processors, entries in table.TABLES.items():
        for (rows, columns, depth, vector), entry in entries.items():
            assert (rows, columns, depth) in CLASSES and isinstance(vector, bool)
            tile = tiles.Tile(*entry)
            assert tile.shared_bytes(vector, 0 if vector else 2) <= tiles.SHARED_BYTES
        assert tiles.choose_tile(4096, 7168, 2048, False, processors) == tiles.Tile(
            *entries["many", "few", "deep", False]
        )
    # No table for such a card: the rule.
    assert tiles.choose_tile(64, 2112, 7168, False, 7) == tiles.analytic(64, 2112, 7)


CLASSES = list(itertools.product(("one", "two", "many"), ("few", "many"), ("shallow", "deep")))


def test_every_class_of_shapes_has_candidates_that_fit():
    seen = set()
    for m, n, k in itertools.product((1, 100, 4096), (2112, 24576), (1536, 7168)):
        seen.add(tiles.shape_class(m, n, k, False, 132)[:3])
        for vector in (False, True):
            found = tiles.candidates(m, vector, 2)
            assert tiles.choose_tile(m, n, k, vector, 132).strips in {t.strips for t in found}
            assert all(t.shared_bytes(vector, 2) <= tiles.SHARED_BYTES for t in found)
            assert all(t.strips * 64 < m + 64 for t in found)
    assert seen == set(CLASSES)
