//! How long the operations of mixers take with the sizes of models, on the card alone.

use quern_tensor_io::ElementType;

use super::mixers::{all, conv, key, norm, of_heads, there};
use super::{Devices, card};
use crate::LatentShape;
use crate::executor::mixers::{DeltaNet, DeltaParameters, DeltaRows, Mamba2, ScanParameters};
use crate::executor::{AttendLatent, CacheShape, KvCache, KvType, LatentMatrices, Linear};
use crate::states::{DeltaShape, ScanShape};
use crate::testing::Random;

/// Milliseconds of each operation with the sizes of models, on the card alone.
#[test]
#[ignore = "a measurement"]
fn mixers_take_this_long() {
    let Some((card, _turn)) = card("mixers_take_this_long") else { return };
    let (mut devices, mut random) = (Devices::new(card), Random::new(36));
    let time = |devices: &mut Devices, what: String, work: &mut dyn FnMut(&mut Devices)| {
        work(devices);
        devices.gpu.event().unwrap().unwrap().synchronize().unwrap();
        let start = std::time::Instant::now();
        for _ in 0..20 {
            work(devices);
        }
        devices.gpu.event().unwrap().unwrap().synchronize().unwrap();
        eprintln!("{what}: {:.3} ms", start.elapsed().as_secs_f64() * 50.0);
    };
    for (n, first) in [(1, 4000), (512, 0), (512, 3500), (2048, 2000)] {
        // DeepSeek V2 Lite, and V3.
        for heads in [16, 128] {
            let (rank, rope, nope, value) = (512, 64, 128, 128);
            let shape = LatentShape { heads, rank, rope, nope, value, scale: 0.1 };
            let keys = of_heads(&mut random, ElementType::F16, heads, rank, nope);
            let values = of_heads(&mut random, ElementType::F16, heads, value, rank);
            let mut moved = |linears: &[Linear]| {
                let moved = devices.uploader.stack(&linears.iter().collect::<Vec<_>>()).unwrap();
                devices.uploader.finish().unwrap();
                moved
            };
            let (keys, values) = (moved(&keys), moved(&values));
            for kv in KvType::ALL {
                let layout =
                    CacheShape { layers: 1, kv_heads: 1, head_dim: 576, context: 4096, kv, keys_only: true };
                let mut cache = KvCache::new(&devices.device, layout).unwrap();
                let zeros = |length: usize| vec![0.01f32; length];
                let [mut q, mut latent, mut out] = there(
                    &mut devices,
                    [&zeros(n * heads * 192), &zeros(n * 576), &zeros(n * heads * value)],
                );
                devices.gpu.begin(key(n, first, 0)).unwrap();
                let what = format!("latent, {heads} heads, {} cache, {n} tokens at {first}", kv.name());
                time(&mut devices, what, &mut |devices| {
                    let attend = AttendLatent {
                        chosen: None,
                        shape,
                        up: LatentMatrices::Card { keys: &keys, values: &values },
                        slot: 0,
                        first,
                        skip: 0,
                        rotate: None,
                        q: all(&mut q),
                        latent: all(&mut latent),
                        out: all(&mut out),
                    };
                    devices.gpu.attend_latent(&mut cache, attend).unwrap();
                });
                devices.gpu.end(None).unwrap();
            }
        }
    }
    for n in [1, 512] {
        // Qwen3-Next.
        let shape = DeltaShape { key_heads: 16, value_heads: 32, key_dim: 128, value_dim: 128, tiled: false };
        let parameters = DeltaParameters {
            shape,
            conv: conv(&mut random, 4, shape.width(), false),
            rates: vec![-0.5; 32].into(),
            time_bias: vec![0.1; 32].into(),
            norm: norm(&mut random, 128),
            order: None,
        };
        let parameters = parameters.upload(&mut devices.uploader).unwrap();
        devices.uploader.finish().unwrap();
        let numbers = [parameters.state(), n * parameters.row(), n * shape.values(), n * shape.values()];
        let numbers = numbers.map(|length| vec![0.01f32; length]);
        let [mut state, rows, mut made, mut out] =
            there(&mut devices, numbers.each_ref().map(|values| &values[..]));
        devices.gpu.begin(key(n, 0, 0)).unwrap();
        time(&mut devices, format!("delta net, {n} tokens"), &mut |devices| {
            let net = DeltaNet {
                parameters: &parameters,
                rows: DeltaRows::Joined(rows.front(rows.len())),
                state: all(&mut state),
                scratch: all(&mut made),
                skip: 0,
                out: all(&mut out),
            };
            devices.gpu.delta_net(net).unwrap();
        });
        devices.gpu.end(None).unwrap();
        // Nemotron-H 8B.
        let shape = ScanShape { heads: 128, head_dim: 64, groups: 8, state: 128 };
        let parameters = ScanParameters {
            shape,
            conv: conv(&mut random, 4, shape.width(), true),
            time_bias: vec![0.1; 128].into(),
            limits: (0.0, f32::INFINITY),
            rates: vec![-0.5; 128].into(),
            skips: vec![0.5; 128].into(),
            norm: Some(norm(&mut random, shape.inner())),
            factors: None,
        };
        let parameters = parameters.upload(&mut devices.uploader).unwrap();
        devices.uploader.finish().unwrap();
        let scratch = n * parameters.scratch();
        let numbers = [parameters.state(), n * parameters.row(), scratch, n * shape.inner()];
        let numbers = numbers.map(|length| vec![0.01f32; length]);
        let [mut state, rows, mut made, mut out] =
            there(&mut devices, numbers.each_ref().map(|values| &values[..]));
        devices.gpu.begin(key(n, 0, 0)).unwrap();
        time(&mut devices, format!("Mamba-2, {n} tokens"), &mut |devices| {
            let mamba = Mamba2 {
                parameters: &parameters,
                rows: rows.front(rows.len()),
                state: all(&mut state),
                scratch: all(&mut made),
                skip: 0,
                out: all(&mut out),
            };
            devices.gpu.mamba2(mamba).unwrap();
        });
        devices.gpu.end(None).unwrap();
    }
}
