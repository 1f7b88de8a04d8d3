//! Gates, convolutions, delta nets, Mamba-2 and latent attention against the CPU's, texts in pieces of one token and of
//! many.

use std::sync::Arc;

use quern_tensor_io::ElementType;

use super::{Devices, card, distance, vector};
use crate::LatentShape;
use crate::executor::mixers::{
    Convolution, DeltaNet, DeltaParameters, DeltaRows, GatedConvolution, Mamba2, ScanParameters, SplitGates,
};
use crate::executor::{
    AttendLatent, Buffer, CacheShape, KvCache, KvType, LatentMatrices, Linear, Norm, NormKind, PassKey,
    Permutation, Rotate, Values, ValuesMut, Weight,
};
use crate::ops::RopeStyle;
use crate::states::{DeltaShape, ScanShape};
use crate::testing::Random;

/// Tokens of each piece of a text, and how many of them have no result.
const PIECES: [(usize, usize); 7] = [(9, 0), (1, 0), (40, 37), (1, 0), (3, 2), (17, 0), (2, 0)];

pub(super) fn key(tokens: usize, first: usize, keep: usize) -> PassKey {
    PassKey { segment: 0, tokens, first, keep, recordable: false }
}

/// Buffers on the card with these values.
pub(super) fn there<const N: usize>(devices: &mut Devices, values: [&[f32]; N]) -> [Buffer; N] {
    values.map(|values| {
        let mut buffer = Buffer::new(&devices.device);
        buffer.reserve(values.len()).unwrap();
        devices.gpu.put(values, buffer.front_mut(values.len())).unwrap();
        buffer
    })
}

pub(super) fn all(buffer: &mut Buffer) -> ValuesMut<'_> {
    let length = buffer.len();
    buffer.front_mut(length)
}

fn read(devices: &mut Devices, buffer: &Buffer) -> Vec<f32> {
    let mut values = vec![f32::NAN; buffer.len()];
    devices.gpu.download(buffer.front(buffer.len()), &mut values).unwrap();
    values
}

pub(super) fn norm(random: &mut Random, width: usize) -> Norm {
    Norm { kind: NormKind::Rms, epsilon: 1e-5, weight: vector(random, width).into(), bias: None }
}

pub(super) fn conv(random: &mut Random, taps: usize, channels: usize, bias: bool) -> Convolution {
    Convolution {
        weight: vector(random, taps * channels).into(),
        bias: bias.then(|| vector(random, channels).into()),
        channels,
    }
}

/// Notes what is too far.
fn check(wrong: &mut Vec<String>, what: String, found: &[f32], expected: &[f32], most: f64) {
    let d = distance(found, expected);
    if d > most {
        wrong.push(format!("{what}: {d:.2e}"));
    }
}

#[test]
fn gates_and_fronts_are_those_of_the_cpu() {
    let Some((card, _turn)) = card("gates_and_fronts_are_those_of_the_cpu") else { return };
    let (mut devices, mut random, mut wrong) = (Devices::new(card), Random::new(31), Vec::new());
    for (n, heads, head_dim, rest) in [(1, 4, 64, 128), (5, 3, 20, 0), (33, 16, 256, 1024)] {
        let query = heads * head_dim;
        let both = vector(&mut random, n * (2 * query + rest));
        let (mut out, mut gates) = (vec![0.0; n * (query + rest)], vec![0.0; n * query]);
        let host = SplitGates {
            both: Values::Host(&both),
            head_dim,
            heads,
            rest,
            out: ValuesMut::Host(&mut out),
            gates: ValuesMut::Host(&mut gates),
        };
        devices.cpu.split_gates(host).unwrap();
        let [b, mut o, mut g] = there(&mut devices, [&both, &out, &gates]);
        devices.gpu.begin(key(2, 0, 0)).unwrap();
        devices.gpu.clear(all(&mut o)).unwrap();
        devices.gpu.clear(all(&mut g)).unwrap();
        let (out_there, gates_there) = (all(&mut o), all(&mut g));
        let on_card =
            SplitGates { both: b.front(b.len()), head_dim, heads, rest, out: out_there, gates: gates_there };
        devices.gpu.split_gates(on_card).unwrap();
        devices.gpu.end(None).unwrap();
        check(&mut wrong, format!("queries {n} {heads}"), &read(&mut devices, &o), &out, 0.0);
        check(&mut wrong, format!("gates {n} {heads}"), &read(&mut devices, &g), &gates, 0.0);

        let before = vector(&mut random, gates.len());
        let mut x = before.clone();
        devices.cpu.sigmoid_gate(ValuesMut::Host(&mut x), Values::Host(&gates)).unwrap();
        let [mut y] = there(&mut devices, [&before]);
        devices.gpu.sigmoid_gate(all(&mut y), g.front(g.len())).unwrap();
        check(&mut wrong, format!("sigmoid {n} {heads}"), &read(&mut devices, &y), &x, 1e-6);

        let (stride, width) = (2 * query + rest, query - 3);
        let norm = norm(&mut random, width);
        let norm_there = devices.uploader.norm(&norm).unwrap();
        devices.uploader.finish().unwrap();
        let (mut rows, mut fronts) = (both.clone(), vec![0.0; n * width]);
        devices.cpu.norm_fronts(&norm, ValuesMut::Host(&mut rows), stride).unwrap();
        devices.cpu.copy_fronts(Values::Host(&rows), stride, ValuesMut::Host(&mut fronts), width).unwrap();
        let [mut r, mut f] = there(&mut devices, [&both, &fronts]);
        devices.gpu.clear(all(&mut f)).unwrap();
        devices.gpu.norm_fronts(&norm_there, all(&mut r), stride).unwrap();
        devices.gpu.copy_fronts(r.front(r.len()), stride, all(&mut f), width).unwrap();
        check(&mut wrong, format!("norm of fronts {n} {heads}"), &read(&mut devices, &r), &rows, 1e-6);
        check(&mut wrong, format!("fronts {n} {heads}"), &read(&mut devices, &f), &fronts, 1e-6);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn gated_convolutions_are_those_of_the_cpu() {
    let Some((card, _turn)) = card("gated_convolutions_are_those_of_the_cpu") else { return };
    let (mut devices, mut random, mut wrong) = (Devices::new(card), Random::new(32), Vec::new());
    for (taps, channels, bias) in [(3, 40, false), (4, 1024, true), (1, 7, false), (8, 300, true)] {
        let conv = conv(&mut random, taps, channels, bias);
        let conv_there = conv.upload(&mut devices.uploader).unwrap();
        devices.uploader.finish().unwrap();
        let mut state = vec![0.0; conv.state()];
        let [mut state_there] = there(&mut devices, [&state]);
        for (n, skip) in PIECES {
            let rows = vector(&mut random, 3 * n * channels);
            let (mut made, mut out) = (vec![0.0; n * channels], vec![0.0; (n - skip) * channels]);
            let host = GatedConvolution {
                conv: &conv,
                rows: Values::Host(&rows),
                state: ValuesMut::Host(&mut state),
                scratch: ValuesMut::Host(&mut made),
                skip,
                out: ValuesMut::Host(&mut out),
            };
            devices.cpu.gated_convolution(host).unwrap();
            let [r, mut m, mut o] = there(&mut devices, [&rows, &made, &vec![f32::NAN; out.len()]]);
            let on_card = GatedConvolution {
                conv: &conv_there,
                rows: r.front(r.len()),
                state: all(&mut state_there),
                scratch: all(&mut m),
                skip,
                out: all(&mut o),
            };
            devices.gpu.begin(key(2, 0, 0)).unwrap();
            devices.gpu.gated_convolution(on_card).unwrap();
            devices.gpu.end(None).unwrap();
            let what = format!("{taps} taps, {channels} channels, {n} tokens less {skip}");
            check(&mut wrong, what.clone(), &read(&mut devices, &o), &out, 1e-5);
            if !state.is_empty() {
                check(&mut wrong, format!("{what}, state"), &read(&mut devices, &state_there), &state, 1e-6);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn delta_nets_are_those_of_the_cpu() {
    let Some((card, _turn)) = card("delta_nets_are_those_of_the_cpu") else { return };
    let (mut devices, mut random, mut wrong) = (Devices::new(card), Random::new(33), Vec::new());
    for (key_heads, value_heads, key_dim, value_dim, tiled) in [
        (2, 4, 16, 24, false),
        (2, 4, 128, 128, true),
        (16, 32, 128, 128, false),
        (1, 3, 40, 33, false),
        (3, 3, 64, 16, false),
        (1, 2, 256, 100, true),
    ] {
        let shape = DeltaShape { key_heads, value_heads, key_dim, value_dim, tiled };
        let (width, values) = (shape.width(), shape.values());
        let mut parameters = DeltaParameters {
            shape,
            conv: conv(&mut random, 4, width, false),
            rates: vector(&mut random, value_heads).iter().map(|v| -v.abs()).collect::<Vec<_>>().into(),
            time_bias: vector(&mut random, value_heads).into(),
            norm: norm(&mut random, value_dim),
            order: None,
        };
        // Numbers of a row in another order.
        let row = parameters.row();
        if tiled {
            parameters.order = Some(Permutation::Host((0..row as u32).rev().collect()));
        }
        let parameters_there = parameters.upload(&mut devices.uploader).unwrap();
        devices.uploader.finish().unwrap();
        let mut state = vec![0.0; parameters.state()];
        let [mut state_there] = there(&mut devices, [&state]);
        for (n, skip) in PIECES {
            let parts = [width, values, value_heads, value_heads];
            let mut own = parts.map(|part| vector(&mut random, n * part));
            let mut joined = Vec::new();
            for t in 0..n {
                for (values, part) in own.iter().zip(parts) {
                    joined.extend_from_slice(&values[t * part..][..part]);
                }
            }
            if tiled {
                joined.chunks_exact_mut(row).for_each(<[f32]>::reverse);
            }
            let (mut made, mut out) = (vec![0.0; n * values], vec![0.0; (n - skip) * values]);
            let [qkv, gate, beta, alpha] = own.each_mut().map(|values| ValuesMut::Host(values));
            let host = DeltaNet {
                parameters: &parameters,
                rows: DeltaRows::Separate { qkv, gate, beta, alpha },
                state: ValuesMut::Host(&mut state),
                scratch: ValuesMut::Host(&mut made),
                skip,
                out: ValuesMut::Host(&mut out),
            };
            devices.cpu.delta_net(host).unwrap();
            let [r, mut m, mut o] = there(&mut devices, [&joined, &made, &vec![f32::NAN; out.len()]]);
            let on_card = DeltaNet {
                parameters: &parameters_there,
                rows: DeltaRows::Joined(r.front(r.len())),
                state: all(&mut state_there),
                scratch: all(&mut m),
                skip,
                out: all(&mut o),
            };
            devices.gpu.begin(key(2, 0, 0)).unwrap();
            devices.gpu.delta_net(on_card).unwrap();
            devices.gpu.end(None).unwrap();
            let what = format!("{shape:?}, {n} tokens less {skip}");
            check(&mut wrong, what.clone(), &read(&mut devices, &o), &out, 1e-4);
            check(&mut wrong, format!("{what}, state"), &read(&mut devices, &state_there), &state, 1e-5);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn mamba_2_is_that_of_the_cpu() {
    let Some((card, _turn)) = card("mamba_2_is_that_of_the_cpu") else { return };
    let (mut devices, mut random, mut wrong) = (Devices::new(card), Random::new(34), Vec::new());
    for (heads, head_dim, groups, state) in
        [(4, 24, 2, 8), (8, 64, 1, 128), (6, 80, 3, 40), (3, 7, 3, 5), (2, 32, 1, 256)]
    {
        let shape = ScanShape { heads, head_dim, groups, state };
        let inner = shape.inner();
        let parameters = ScanParameters {
            shape,
            conv: conv(&mut random, 4, shape.width(), true),
            time_bias: vector(&mut random, heads).into(),
            limits: (0.01, 0.9),
            rates: vector(&mut random, heads).iter().map(|v| -v.abs()).collect::<Vec<_>>().into(),
            skips: vector(&mut random, heads).into(),
            norm: Some(norm(&mut random, inner)),
            factors: None,
        };
        let parameters_there = parameters.upload(&mut devices.uploader).unwrap();
        devices.uploader.finish().unwrap();
        let mut state = vec![0.0; parameters.state()];
        let [mut state_there] = there(&mut devices, [&state]);
        for (n, skip) in PIECES {
            let rows = vector(&mut random, n * parameters.row());
            let (mut made, mut out) = (vec![0.0; n * parameters.scratch()], vec![0.0; (n - skip) * inner]);
            let host = Mamba2 {
                parameters: &parameters,
                rows: Values::Host(&rows),
                state: ValuesMut::Host(&mut state),
                scratch: ValuesMut::Host(&mut made),
                skip,
                out: ValuesMut::Host(&mut out),
            };
            devices.cpu.mamba2(host).unwrap();
            let [r, mut m, mut o] = there(&mut devices, [&rows, &made, &vec![f32::NAN; out.len()]]);
            let on_card = Mamba2 {
                parameters: &parameters_there,
                rows: r.front(r.len()),
                state: all(&mut state_there),
                scratch: all(&mut m),
                skip,
                out: all(&mut o),
            };
            devices.gpu.begin(key(2, 0, 0)).unwrap();
            devices.gpu.mamba2(on_card).unwrap();
            devices.gpu.end(None).unwrap();
            let what = format!("{shape:?}, {n} tokens less {skip}");
            check(&mut wrong, what.clone(), &read(&mut devices, &o), &out, 1e-4);
            check(&mut wrong, format!("{what}, state"), &read(&mut devices, &state_there), &state, 1e-5);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Matrices of heads, in plain numbers.
pub(super) fn of_heads(
    random: &mut Random,
    element_type: ElementType,
    heads: usize,
    rows: usize,
    columns: usize,
) -> Vec<Linear> {
    let one = |_| {
        let values = vector(random, rows * columns).into_iter().map(|v| 0.3 * v);
        let data: Vec<u8> = match element_type {
            ElementType::F16 => values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
            ElementType::BF16 => values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.flat_map(f32::to_le_bytes).collect(),
        };
        let range = 0..data.len();
        let weight = Weight::host(element_type, rows, columns, Arc::new(data), range).unwrap();
        Linear { weight, bias: None, permutation: None }
    };
    (0..heads).map(one).collect()
}

#[test]
fn latent_attention_is_that_of_the_cpu() {
    let Some((card, _turn)) = card("latent_attention_is_that_of_the_cpu") else { return };
    let (mut devices, mut random, mut wrong) = (Devices::new(card), Random::new(35), Vec::new());
    for (heads, rank, rope, nope, value, element_type, style) in [
        (4, 32, 8, 16, 20, ElementType::F32, RopeStyle::HalfSplit),
        (16, 512, 64, 128, 128, ElementType::F16, RopeStyle::Interleaved),
        (5, 256, 32, 64, 64, ElementType::BF16, RopeStyle::HalfSplit),
        (1, 100, 4, 36, 12, ElementType::F16, RopeStyle::Interleaved),
    ] {
        let shape = LatentShape { heads, rank, rope, nope, value, scale: 0.2 };
        let (query, cached, pairs) = (nope + rope, rank + rope, rope / 2);
        let keys = of_heads(&mut random, element_type, heads, rank, nope);
        let values = of_heads(&mut random, element_type, heads, value, rank);
        let mut moved = |linears: &[Linear]| {
            let moved = devices.uploader.stack(&linears.iter().collect::<Vec<_>>()).unwrap();
            devices.uploader.finish().unwrap();
            moved
        };
        let (keys_there, values_there) = (moved(&keys), moved(&values));
        for kv in KvType::ALL {
            let layout =
                CacheShape { layers: 2, kv_heads: 1, head_dim: cached, context: 700, kv, keys_only: true };
            let mut here = KvCache::new(&devices.cpu.device(), layout).unwrap();
            let mut cache_there = KvCache::new(&devices.device, layout).unwrap();
            let mut first = 0;
            for (n, skip) in [(300, 0), (1, 0), (5, 4), (3, 0), (1, 0), (270, 201), (1, 0)] {
                let (q, latent) = (vector(&mut random, n * heads * query), vector(&mut random, n * cached));
                let angles: Vec<f32> = vector(&mut random, n * pairs);
                let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
                let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
                let mut expected = vec![0.0; (n - skip) * heads * value];
                let (mut own_q, mut own_latent) = (q.clone(), latent.clone());
                let up =
                    LatentMatrices::Split { keys: keys.iter().collect(), values: values.iter().collect() };
                let attend = AttendLatent {
                    chosen: None,
                    shape,
                    up,
                    slot: 1,
                    first,
                    skip,
                    rotate: Some(Rotate { style, pairs, cos: Values::Host(&cos), sin: Values::Host(&sin) }),
                    q: ValuesMut::Host(&mut own_q),
                    latent: ValuesMut::Host(&mut own_latent),
                    out: ValuesMut::Host(&mut expected),
                };
                devices.cpu.attend_latent(&mut here, attend).unwrap();
                let nothing = vec![f32::NAN; expected.len()];
                let [mut b, mut l, c, s, mut o] = there(&mut devices, [&q, &latent, &cos, &sin, &nothing]);
                let up = LatentMatrices::Card { keys: &keys_there, values: &values_there };
                let (cos, sin) = (c.front(c.len()), s.front(s.len()));
                let attend = AttendLatent {
                    chosen: None,
                    shape,
                    up,
                    slot: 1,
                    first,
                    skip,
                    rotate: Some(Rotate { style, pairs, cos, sin }),
                    q: all(&mut b),
                    latent: all(&mut l),
                    out: all(&mut o),
                };
                devices.gpu.begin(key(n, first, skip)).unwrap();
                devices.gpu.attend_latent(&mut cache_there, attend).unwrap();
                devices.gpu.end(None).unwrap();
                let most = match kv {
                    KvType::F32 => 2e-5,
                    KvType::F16 => 4e-3,
                    KvType::Q8_0 => 1.5e-2,
                };
                let what = format!("{} {shape:?} {n} tokens less {skip} at {first}", kv.name());
                check(&mut wrong, what, &read(&mut devices, &o), &expected, most);
                first += n;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
