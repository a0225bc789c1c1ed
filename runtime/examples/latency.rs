//! All-reduce times over sizes; run once per rank.
use std::time::Instant;
fn main() {
    let group = ronde::Config::from_env().unwrap().join().unwrap();
    let quick = std::env::args().nth(1).is_some();
    let mut bytes = 8usize;
    while bytes <= 64 << 20 {
        let n = bytes / 4;
        let input: Vec<f32> = (0..n).map(|i| (i % 97) as f32 + group.rank() as f32).collect();
        let mut output = vec![f32::NAN; n];
        let iters = ((200 << 20) / (bytes + 40000)).clamp(5, 5000) / if quick { 10 } else { 1 } + 3;
        let mut times = Vec::new();
        for _ in 0..iters {
            let _ = group.barrier().unwrap();
            let t = Instant::now();
            let _ = group.all_reduce_into(&input, &mut output, ronde::ReduceOp::Sum).unwrap();
            times.push(t.elapsed());
        }
        let w = group.size() as f32;
        for (i, x) in output.iter().enumerate() {
            assert_eq!(*x, (i % 97) as f32 * w + w * (w - 1.0) / 2.0, "at {i} of {n}");
        }
        times.sort();
        if group.rank() == 0 {
            println!("{bytes:>10}  median {:>10.2?}  min {:>10.2?}", times[times.len() / 2], times[0]);
        }
        bytes *= 4;
    }
    group.close().unwrap();
}
