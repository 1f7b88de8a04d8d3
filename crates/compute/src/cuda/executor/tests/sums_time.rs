//! How long sums of products take, and how far they are from f64. Run by name: `--ignored sums_take_this_long --nocapture`.

use super::*;
use crate::cuda::Event;

/// Tokens a call, columns.
const SHAPES: [(usize, usize); 6] =
    [(2048, 2048), (2048, 4096), (8192, 4096), (2048, 5632), (2048, 11008), (8192, 11008)];

#[test]
#[ignore = "takes times"]
fn sums_take_this_long() {
    let Some((card, _turn)) = card("sums_take_this_long") else { return };
    println!("{}", card.info().name);
    let device = Device::Cuda(card.clone());
    let mut random = Random::new(9);
    // Heavy tails, and some columns a hundred times larger.
    let mut number = |column: usize| {
        let x = random.float() + random.float() + random.float();
        let tail = if random.float() > 0.98 { 20.0 } else { 1.0 };
        x * tail * if column % 512 == 77 { 100.0 } else { 1.0 }
    };
    let mut gpu = Executor::new(&device).unwrap();
    let (mut x, mut sum) = (Buffer::new(&device), Buffer::new(&device));
    let mut host = Vec::new();
    for (tokens, columns) in SHAPES {
        let (length, square) = (tokens * columns, columns * columns);
        host.clear();
        host.extend((0..length).map(|i| number(i % columns)));
        x.reserve(length).unwrap();
        sum.reserve(square).unwrap();
        gpu.upload(&host, x.front_mut(length)).unwrap();
        gpu.clear(sum.front_mut(square)).unwrap();
        gpu.gram(x.front(length), columns, sum.front_mut(square)).unwrap();
        let mut found = vec![0f32; square];
        gpu.download(sum.front(square), &mut found).unwrap();
        let (mut diagonal, mut mean, mut largest, mut count) = (0f64, 0f64, 0f64, 0);
        for k in 0..400 {
            let i = k * 7919 % columns;
            let j = if k < 100 { i } else { k * 104_729 % (i + 1) };
            let column = |i: usize| host[i..].iter().step_by(columns).map(|x| f64::from(*x));
            let exact: f64 = column(i).zip(column(j)).map(|(a, b)| a * b).sum();
            let squares = |i: usize| column(i).map(|x| x * x).sum::<f64>();
            let error = (f64::from(found[i * columns + j]) - exact) / (squares(i) * squares(j)).sqrt();
            if i == j {
                diagonal += error / 100.0;
            } else {
                mean += error.abs();
                count += 1;
            }
            largest = largest.max(error.abs());
        }
        let rounds = 20;
        let (start, end) = (Event::timed(&card).unwrap(), Event::timed(&card).unwrap());
        gpu.cuda_half().unwrap().record(&start).unwrap();
        for _ in 0..rounds {
            gpu.gram(x.front(length), columns, sum.front_mut(square)).unwrap();
        }
        gpu.cuda_half().unwrap().record(&end).unwrap();
        let seconds = start.seconds_until(&end).unwrap().unwrap() / f64::from(rounds);
        let rate = (length * columns) as f64 / seconds / 1e12;
        println!(
            "gram {tokens:5} x {columns:5}: {:7.3} ms, {rate:6.1} TFLOP/s; error: diagonal {diagonal:+.1e}, mean elsewhere \
             {:.1e}, largest {largest:.1e}",
            seconds * 1e3,
            mean / f64::from(count),
        );
    }
}
