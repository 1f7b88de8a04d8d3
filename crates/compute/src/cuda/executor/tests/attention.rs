//! Attention against the CPU: kernels for few tokens and for many, caches of every kind, windows, soft caps, sinks, norms.

use super::{Devices, card, distance, vector};
use crate::AttentionShape;
use crate::executor::{
    Attend, Buffer, CacheShape, Heads, KvCache, KvType, Norm, NormKind, PassKey, Rotate, Values, ValuesMut,
    Vector,
};
use crate::ops::RopeStyle;
use crate::testing::Random;

#[test]
fn attention_is_that_of_the_cpu() {
    let Some((card, _turn)) = card("attention_is_that_of_the_cpu") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(7);
    let mut wrong = Vec::new();
    for (heads, kv_heads, head_dim) in
        [(4, 2, 64), (6, 1, 80), (8, 8, 128), (2, 2, 20), (4, 4, 256), (32, 8, 128), (64, 8, 64)]
    {
        for kv in KvType::ALL {
            // Norms of heads: of which the rotation is in front, or behind.
            for (window, softcap, with_sinks, norms_last) in [
                (None, None, false, None),
                (Some(40), None, false, None),
                (None, Some(20.0), false, None),
                (None, None, true, None),
                (Some(40), None, true, None),
                (None, Some(20.0), true, None),
                (None, None, false, Some(false)),
                (None, None, false, Some(true)),
            ] {
                let mut norm = || {
                    let weight: Vec<f32> = vector(&mut random, head_dim).iter().map(|x| 1.0 + x).collect();
                    Norm { kind: NormKind::Rms, epsilon: 1e-5, weight: weight.into(), bias: None }
                };
                let norms = norms_last.map(|_| [norm(), norm()]);
                let norms_there = norms.as_ref();
                let norms_there =
                    norms_there.map(|both| both.each_ref().map(|norm| devices.uploader.norm(norm).unwrap()));
                let last = norms_last == Some(true);
                // As large as the sums that they join, and far from them.
                let mut sinks: Vec<f32> = vector(&mut random, heads).iter().map(|x| 4.0 + 4.0 * x).collect();
                (sinks[0], sinks[heads - 1]) = (60.0, -200.0);
                let sinks: Option<Vector> = with_sinks.then(|| sinks.into());
                let sinks_there = sinks.as_ref().map(|sinks| devices.uploader.vector(sinks).unwrap());
                devices.uploader.finish().unwrap();
                let scale = (head_dim as f32).powf(-0.5);
                let shape = AttentionShape { heads, kv_heads, head_dim, scale, window, chunk: None, softcap };
                let layout = CacheShape { layers: 2, kv_heads, head_dim, context: 400, kv, keys_only: false };
                let mut here = KvCache::new(&devices.cpu.device(), layout).unwrap();
                let mut there = KvCache::new(&devices.device, layout).unwrap();
                let (width, pairs) = ((heads + 2 * kv_heads) * head_dim, head_dim / 4);
                let mut first = 0;
                for (n, skip) in [(300, 0), (1, 0), (5, 4), (3, 0), (1, 0), (40, 39)] {
                    let qkv = vector(&mut random, n * width);
                    let angles = vector(&mut random, 2 * n * pairs);
                    let (cos, sin) = angles.split_at(n * pairs);
                    let rotate = |cos, sin| Some(Rotate { style: RopeStyle::HalfSplit, pairs, cos, sin });
                    let mut expected = vec![0.0; (n - skip) * heads * head_dim];
                    let mut own = qkv.clone();
                    let attend = Attend {
                        norms_last: last,
                        shape,
                        slot: 1,
                        first,
                        skip,
                        norms: norms.as_ref().map(|[q, k]| (q, k)),
                        rotate: rotate(Values::Host(cos), Values::Host(sin)),
                        sinks: sinks.as_ref(),
                        heads: Heads::Joined { qkv: ValuesMut::Host(&mut own), by_group: false },
                        out: ValuesMut::Host(&mut expected),
                    };
                    devices.cpu.attend(&mut here, attend).unwrap();
                    let Devices { gpu, device, .. } = &mut devices;
                    let mut buffers: [Buffer; 4] = std::array::from_fn(|_| Buffer::new(device));
                    for (buffer, length) in
                        buffers.iter_mut().zip([qkv.len(), cos.len(), sin.len(), expected.len()])
                    {
                        buffer.reserve(length).unwrap();
                    }
                    let [b, c, s, o] = &mut buffers;
                    gpu.begin(PassKey { segment: 0, tokens: n, first, keep: skip, recordable: false })
                        .unwrap();
                    gpu.upload(&qkv, b.front_mut(qkv.len())).unwrap();
                    gpu.upload(cos, c.front_mut(cos.len())).unwrap();
                    gpu.upload(sin, s.front_mut(sin.len())).unwrap();
                    let attend = Attend {
                        norms_last: last,
                        shape,
                        slot: 1,
                        first,
                        skip,
                        norms: norms_there.as_ref().map(|[q, k]| (q, k)),
                        rotate: rotate(c.front(cos.len()), s.front(sin.len())),
                        sinks: sinks_there.as_ref(),
                        heads: Heads::Joined { qkv: b.front_mut(qkv.len()), by_group: false },
                        out: o.front_mut(expected.len()),
                    };
                    gpu.attend(&mut there, attend).unwrap();
                    let mut found = vec![f32::NAN; expected.len()];
                    gpu.end(Some((o.front(expected.len()), &mut found))).unwrap();
                    let d = distance(&found, &expected);
                    let most = match kv {
                        KvType::F32 => 1e-5,
                        KvType::F16 => 4e-3,
                        KvType::Q8_0 => 1.5e-2,
                    };
                    if d > most {
                        let variant = (window, softcap, with_sinks, norms_last);
                        let what = (heads, kv_heads, head_dim, variant, n, first, skip);
                        wrong.push(format!("{} {what:?}: {d:.2e}", kv.name()));
                    }
                    first += n;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
