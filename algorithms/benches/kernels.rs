//! How fast the reduction kernels are beside a copy: bytes read and written per second.
//!
//! `cargo bench -p ronde-algorithms`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ronde_algorithms::kernels::CpuKernels;
use ronde_core::memory::{Access, Arena};
use ronde_core::reduce::{Kernels, ReduceSpec, Reduction};
use ronde_core::{DType, ReduceOp, Segment};
use std::hint::black_box;

/// In the cache of a core, and far beyond all caches.
const SIZES: [(&str, usize); 2] = [("64 KiB", 64 << 10), ("64 MiB", 64 << 20)];

fn memory(bytes: usize) -> Arena {
    let arena = Arena::new(bytes);
    // Ones of the usual types are as good as any other finite values, and quick to make.
    arena.segment(0, bytes).bytes_mut().fill(0x3c);
    arena
}

fn copy(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy");
    for (name, bytes) in SIZES {
        let (from, to) = (memory(bytes), memory(bytes));
        let (from, to) = (from.segment(0, bytes), to.segment(0, bytes));
        group.throughput(Throughput::Bytes(2 * bytes as u64));
        group.bench_function(name, |b| b.iter(|| black_box(&from).copy_to(black_box(&to))));
    }
}

fn reduce(c: &mut Criterion) {
    let kernels = CpuKernels::detect();
    let mut group = c.benchmark_group("sum");
    for (size, bytes) in SIZES {
        for sources in [2, 4] {
            let arenas: Vec<Arena> = (0..sources).map(|_| memory(bytes)).collect();
            let segments: Vec<Segment> = arenas.iter().map(|arena| arena.segment(0, bytes)).collect();
            let output = memory(bytes);
            let output = output.segment(0, bytes);
            group.throughput(Throughput::Bytes(((sources + 1) * bytes) as u64));
            for dtype in [DType::F32, DType::F64, DType::Bf16, DType::F16, DType::I8, DType::F8E4M3] {
                let reduction = Reduction::Builtin(ReduceOp::Sum);
                let streaming = bytes >= 8 << 20;
                let spec =
                    ReduceSpec { dtype, reduction: &reduction, finish: Some(sources as f64), streaming };
                let id = BenchmarkId::new(dtype.name(), format!("{sources} x {size}"));
                group.bench_function(id, |b| b.iter(|| kernels.reduce(&spec, black_box(&segments), &output)));
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).without_plots();
    targets = copy, reduce
}
criterion_main!(benches);
