//! Many 8-byte all-reduces.
fn main() {
    let group = ronde::Config::from_env().unwrap().join().unwrap();
    let n: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let input = [1.0f32, 2.0];
    let mut output = [0.0f32; 2];
    for _ in 0..n / 10 {
        let _ = group.all_reduce_into(&input, &mut output, ronde::ReduceOp::Sum).unwrap();
    }
    let t = std::time::Instant::now();
    for _ in 0..n {
        let _ = group.all_reduce_into(&input, &mut output, ronde::ReduceOp::Sum).unwrap();
    }
    if group.rank() == 0 {
        println!("{:.0} ns per op", t.elapsed().as_nanos() as f64 / n as f64);
    }
    group.close().unwrap();
}
