//! A mixture of experts against the CPU, which goes expert by expert. `routings.rs` has other routings than a softmax.

use std::sync::Arc;

use quern_tensor_io::ElementType;

use super::{Devices, card, distance, linear, vector};
use crate::executor::{
    Buffer, Choice, Executor, ExpertLayers, ExpertStacks, Input, Linear, Mixture, Mode, Norm, NormKind,
    Output, PassKey, Permutation, Routing, Rows, Values, ValuesMut, Vector, Weight, bytes_of_linear,
    bytes_of_norm, bytes_of_stack, bytes_of_vector,
};
use crate::ops::Activation;
use crate::testing::Random;

/// How the router's outputs are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Router {
    Different,
    /// Experts 0 and 1 have equal ones, 2 and 3, ...
    Pairs,
    /// All are zero.
    Zero,
}

/// A network in RAM.
pub(super) struct Network {
    pub(super) router: Linear,
    /// Gate, up, down.
    pub(super) experts: Vec<[Linear; 3]>,
    /// Whether gates are used.
    pub(super) gated: bool,
    pub(super) routing: Routing,
    pub(super) choice_bias: Option<Vector>,
    pub(super) scaled_inputs: bool,
    norm: Norm,
    pub(super) activation: Activation,
}

/// The same on the card.
pub(super) struct Moved {
    router: Linear,
    experts: Vec<[Linear; 3]>,
    gated: bool,
    choice_bias: Option<Vector>,
    norm: Norm,
    pub(super) stacks: Option<ExpertStacks>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) widen: ElementType,
    pub(super) narrow: ElementType,
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) routing: Routing,
    pub(super) router: Router,
    /// Whether experts have biases.
    pub(super) biased: bool,
}

impl Network {
    pub(super) fn new(random: &mut Random, shape: Shape) -> Self {
        let Shape { widen, narrow, hidden, inner, routing, router, biased } = shape;
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for expert in 0..routing.count {
            rows.push(match router {
                Router::Pairs if expert % 2 == 1 => rows[expert - 1].clone(),
                Router::Pairs | Router::Different => vector(random, hidden).iter().map(|x| x * 0.2).collect(),
                Router::Zero => vec![0.0; hidden],
            });
        }
        let data: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        let range = 0..data.len();
        let weight = Weight::host(ElementType::F32, routing.count, hidden, Arc::new(data), range).unwrap();
        let mut expert = || {
            [(widen, inner, hidden), (widen, inner, hidden), (narrow, hidden, inner)]
                .map(|(element_type, rows, columns)| linear(random, element_type, rows, columns, biased))
        };
        let experts = (0..routing.count).map(|_| expert()).collect();
        let weight_of_norm = vector(random, hidden).iter().map(|x| 1.0 + 0.3 * x).collect::<Vec<_>>();
        let norm = Norm { kind: NormKind::Rms, epsilon: 1e-5, weight: weight_of_norm.into(), bias: None };
        let router = Linear { weight, bias: None, permutation: None };
        let (choice_bias, scaled_inputs, activation) = (None, false, Activation::Silu);
        Self { router, experts, gated: true, routing, choice_bias, scaled_inputs, norm, activation }
    }

    fn layers(&self) -> [Vec<&Linear>; 3] {
        [0, 1, 2].map(|layer| self.experts.iter().map(|expert| &expert[layer]).collect())
    }

    /// To the card, into exactly the bytes that were counted.
    pub(super) fn upload(&self, devices: &mut Devices) -> Moved {
        let uploader = &mut devices.uploader;
        let stacks = self.layers().iter().map(|layers| bytes_of_stack(layers)).sum::<usize>();
        let bias = self.choice_bias.as_ref().map_or(0, |bias| bytes_of_vector(bias.len()));
        uploader.begin(stacks + bytes_of_linear(&self.router) + bytes_of_norm(&self.norm) + bias).unwrap();
        let [gates, ups, downs] = self.layers().map(|layers| uploader.stack(&layers).unwrap());
        let experts = gates.into_iter().zip(ups).zip(downs);
        let experts: Vec<[Linear; 3]> = experts.map(|((gate, up), down)| [gate, up, down]).collect();
        let router = uploader.linear(&self.router).unwrap();
        let norm = uploader.norm(&self.norm).unwrap();
        let choice_bias = self.choice_bias.as_ref().map(|bias| uploader.vector(bias).unwrap());
        uploader.finish().unwrap();
        let gated = self.gated;
        let stacks = ExpertStacks::of(&refs(&experts, gated));
        Moved { router, experts, gated, choice_bias, norm, stacks }
    }

    /// What the CPU computes: `experts(norm(x))`.
    pub(super) fn expected(&self, cpu: &mut Executor, x: &[f32], normed: bool) -> Vec<f32> {
        let hidden = self.router.weight.columns();
        let mut input = x.to_vec();
        if normed {
            cpu.norm_in_place(&self.norm, ValuesMut::Host(&mut input)).unwrap();
        }
        let mut logits = vec![0.0; x.len() / hidden * self.routing.count];
        let output = Output::Store([ValuesMut::Host(&mut logits)]);
        cpu.linear([&self.router], Input::Values(Values::Host(&input)), output).unwrap();
        let bias = self.choice_bias.as_ref();
        let chosen = cpu.route(ValuesMut::Host(&mut logits), self.routing, bias).unwrap();
        let mut out = vec![0.0; x.len()];
        for ([gate, up, down], choices) in self.experts.iter().zip(chosen) {
            if choices.is_empty() {
                continue;
            }
            let mut rows = vec![0.0; choices.len() * hidden];
            let mut wide = vec![0.0; choices.len() * gate.weight.rows()];
            let gathered = (&choices[..], self.scaled_inputs);
            cpu.gather(Values::Host(&input), hidden, gathered, ValuesMut::Host(&mut rows)).unwrap();
            let (read, inside) = (Input::Values(Values::Host(&rows)), ValuesMut::Host(&mut wide));
            match self.gated {
                true => cpu.linear([gate, up], read, Output::Gate(self.activation, inside)),
                false => cpu.linear([up], read, Output::Activate(self.activation, inside)),
            }
            .unwrap();
            let output = Output::Store([ValuesMut::Host(&mut rows)]);
            cpu.linear([down], Input::Values(Values::Host(&wide)), output).unwrap();
            let share = |choice: &Choice| if self.scaled_inputs { 1.0 } else { choice.share };
            let choices: Vec<Choice> =
                choices.iter().map(|choice| Choice { share: share(choice), ..*choice }).collect();
            cpu.scatter(Values::Host(&rows), hidden, &choices, ValuesMut::Host(&mut out)).unwrap();
        }
        out
    }
}

fn refs(experts: &[[Linear; 3]], gated: bool) -> Vec<ExpertLayers<'_>> {
    let experts = experts.iter();
    experts.map(|[gate, up, down]| ExpertLayers { gate: gated.then_some(gate), up, down }).collect()
}

impl Moved {
    fn mixture<'a>(
        &'a self,
        network: &Network,
        experts: &'a [ExpertLayers<'a>],
        stacked: bool,
    ) -> Mixture<'a> {
        Mixture {
            router: &self.router,
            experts,
            stacks: self.stacks.as_ref().filter(|_| stacked),
            routing: network.routing,
            choice_bias: self.choice_bias.as_ref(),
            scaled_inputs: network.scaled_inputs,
            activation: network.activation,
        }
    }

    /// Results of the card: apart, apart with a norm, or added to the input.
    pub(super) fn results(
        &self,
        devices: &mut Devices,
        network: &Network,
        x: &[f32],
        stacked: bool,
    ) -> [Vec<f32>; 3] {
        let experts = refs(&self.experts, self.gated);
        let mixture = self.mixture(network, &experts, stacked);
        let untouched = vec![f32::NAN; x.len()];
        let plain = devices.on_gpu(x, &untouched, |gpu, input, out| {
            gpu.experts(&mixture, Rows::Apart { input: Input::Values(input), out }).unwrap();
        });
        let normed = devices.on_gpu(x, &untouched, |gpu, input, out| {
            gpu.experts(&mixture, Rows::Apart { input: Input::Norm(&self.norm, input), out }).unwrap();
        });
        let added = devices.on_gpu(x, x, |gpu, _, x| {
            gpu.experts(&mixture, Rows::InPlace { norm: &self.norm, x }).unwrap();
        });
        [plain, normed, added]
    }
}

fn shapes() -> Vec<Shape> {
    use ElementType as T;
    let mut shapes = Vec::new();
    for (widen, narrow) in [
        (T::Q4_0, T::Q4_0),
        (T::Q8_0, T::Q8_0),
        (T::Q4K, T::Q6K),
        (T::Q5K, T::Q5K),
        (T::Q2K, T::Q3K),
        (T::NF4, T::NF4),
        (T::IQ2XXS, T::IQ4XS),
        (T::MXFP4, T::MXFP4),
        (T::F16, T::F16),
        (T::BF16, T::BF16),
        (T::F32, T::F32),
    ] {
        for (count, used, router) in [
            (8, 2, Router::Different),
            (8, 3, Router::Pairs),
            (40, 8, Router::Different),
            (6, 4, Router::Zero),
        ] {
            for normalized in [false, true] {
                let routing = Routing::softmax(count, used, normalized);
                shapes.push(Shape { widen, narrow, hidden: 512, inner: 256, routing, router, biased: false });
            }
        }
    }
    // Rows that are padded on the card, and more inputs of experts than fit into shared memory.
    let routing = Routing::softmax(6, 3, true);
    for element_type in [T::F16, T::F32] {
        let (widen, narrow, router) = (element_type, element_type, Router::Different);
        shapes.push(Shape { widen, narrow, hidden: 200, inner: 76, routing, router, biased: false });
        shapes.push(Shape { widen, narrow, hidden: 64, inner: 22_016, routing, router, biased: false });
    }
    shapes
}

#[test]
fn a_mixture_is_that_of_the_cpu() {
    let Some((card, _turn)) = card("a_mixture_is_that_of_the_cpu") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(8);
    let mut wrong = Vec::new();
    for shape in shapes() {
        let network = Network::new(&mut random, shape);
        let moved = network.upload(&mut devices);
        assert!(moved.stacks.is_some(), "{shape:?}");
        for n in [1, 2, 3, 4, 5, 37] {
            let x = vector(&mut random, n * shape.hidden);
            let plain = network.expected(&mut devices.cpu, &x, false);
            let normed = network.expected(&mut devices.cpu, &x, true);
            let added: Vec<f32> = normed.iter().zip(&x).map(|(a, b)| a + b).collect();
            for stacked in [true, false] {
                let found = moved.results(&mut devices, &network, &x, stacked);
                let most = match (shape.widen, n) {
                    (ElementType::F32, _) => 3e-5,
                    (ElementType::F16 | ElementType::BF16, _) => 5e-3,
                    _ => 3e-2,
                };
                for (what, (found, expected)) in
                    ["plain", "normed", "added"].into_iter().zip(found.iter().zip([&plain, &normed, &added]))
                {
                    let d = distance(found, expected);
                    if d > most {
                        wrong.push(format!("{shape:?} n {n} stacked {stacked} {what}: {d:.2e}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
}

#[test]
fn experts_that_differ_are_computed_apart() {
    let Some((card, _turn)) = card("experts_that_differ_are_computed_apart") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(9);
    let routing = Routing::softmax(4, 3, true);
    let (widen, narrow, router) = (ElementType::Q4_0, ElementType::Q4_0, Router::Different);
    let shape = Shape { widen, narrow, hidden: 256, inner: 128, routing, router, biased: false };
    for case in 0..2 {
        let mut network = Network::new(&mut random, shape);
        if case == 0 {
            network.experts[2][0] = linear(&mut random, ElementType::Q8_0, 128, 256, false);
        } else {
            let order: Arc<[u32]> = (0..256).map(|i| i * 77 % 256).collect();
            network.experts[1][1].permutation = Some(Permutation::Host(order));
        }
        let moved = network.upload(&mut devices);
        assert!(moved.stacks.is_none(), "{case}");
        for n in [1, 3, 20] {
            let x = vector(&mut random, n * 256);
            let expected = network.expected(&mut devices.cpu, &x, true);
            let [_, found, _] = moved.results(&mut devices, &network, &x, true);
            let d = distance(&found, &expected);
            assert!(d < 3e-2, "case {case} n {n}: {d:.2e}");
        }
    }
}

#[test]
fn a_recorded_pass_chooses_anew() {
    let Some((card, _turn)) = card("a_recorded_pass_chooses_anew") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(10);
    let routing = Routing::softmax(16, 2, true);
    let (widen, narrow, router) = (ElementType::Q4_0, ElementType::Q4_0, Router::Different);
    let shape = Shape { widen, narrow, hidden: 256, inner: 128, routing, router, biased: true };
    let mut network = Network::new(&mut random, shape);
    network.choice_bias = Some(vector(&mut random, routing.count).into());
    let moved = network.upload(&mut devices);
    let experts = refs(&moved.experts, true);
    let mixture = moved.mixture(&network, &experts, true);
    let mut x = Buffer::new(&devices.device);
    x.reserve(256).unwrap();
    let mut modes = Vec::new();
    for _ in 0..6 {
        let input = vector(&mut random, 256);
        let expected = network.expected(&mut devices.cpu, &input, true);
        let expected: Vec<f32> = expected.iter().zip(&input).map(|(a, b)| a + b).collect();
        let gpu = &mut devices.gpu;
        let key = PassKey { segment: 0, tokens: 1, first: 0, keep: 0, recordable: true };
        let mode = gpu.begin(key).unwrap();
        gpu.upload(&input, x.front_mut(256)).unwrap();
        if mode == Mode::Run {
            gpu.experts(&mixture, Rows::InPlace { norm: &moved.norm, x: x.front_mut(256) }).unwrap();
        }
        modes.push(mode);
        let mut found = vec![f32::NAN; 256];
        gpu.end(Some((x.front(256), &mut found))).unwrap();
        let d = distance(&found, &expected);
        assert!(d < 3e-2, "{modes:?}: {d:.2e}");
    }
    assert_eq!(modes[2..], [Mode::Replay; 4]);
}
