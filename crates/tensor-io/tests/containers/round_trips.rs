//! Whatever is planned and written comes back: names, types, shapes, metadata, bytes.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use quern_tensor_io::{
    Array, Checkpoint, Container, ElementType, Metadata, StringArray, TensorPlan, Value, gguf, safetensors,
};

use super::Scratch;

fn value() -> impl Strategy<Value = Value> {
    // NaN would not compare equal to itself; its bits are covered by the byte-for-byte test over real files.
    let f32s = any::<f32>().prop_filter("a number", |v| !v.is_nan());
    let f64s = any::<f64>().prop_filter("a number", |v| !v.is_nan());
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        f32s.prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".*".prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        f64s.prop_map(Value::F64),
        array().prop_map(Value::Array),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(Array::U8),
        vec(any::<i8>(), 0..20).prop_map(Array::I8),
        vec(any::<u16>(), 0..20).prop_map(Array::U16),
        vec(any::<i16>(), 0..20).prop_map(Array::I16),
        vec(any::<u32>(), 0..20).prop_map(Array::U32),
        vec(any::<i32>(), 0..20).prop_map(Array::I32),
        vec(-1e30f32..1e30, 0..20).prop_map(Array::F32),
        vec(any::<bool>(), 0..20).prop_map(Array::Bool),
        vec(".*", 0..20).prop_map(|v| Array::String(StringArray::from_iter(v))),
        vec(any::<u64>(), 0..20).prop_map(Array::U64),
        vec(any::<i64>(), 0..20).prop_map(Array::I64),
        vec(-1e300f64..1e300, 0..20).prop_map(Array::F64),
    ]
}

/// Tensors of types that `allowed` lets through, with small shapes of whole blocks.
fn tensors(allowed: fn(ElementType) -> bool, dimensions: usize) -> impl Strategy<Value = Vec<TensorPlan>> {
    let types: Vec<_> = ElementType::ALL.iter().copied().filter(|&t| allowed(t)).collect();
    let tensor =
        (proptest::sample::select(types), vec(0usize..4, 0..=dimensions)).prop_map(|(t, mut shape)| {
            match shape.last_mut() {
                Some(columns) => *columns *= t.block_elements(),
                None if t.is_block() => shape.push(t.block_elements()),
                None => {}
            }
            (t, shape)
        });
    btree_map("\\PC{1,15}", tensor, 0..6).prop_map(|map| {
        let plan = |(name, (element_type, shape))| TensorPlan { name, element_type, shape };
        map.into_iter().map(plan).collect()
    })
}

/// The data of tensor `i`, and the pieces it is written in.
fn data(plan: &TensorPlan, i: usize) -> Vec<u8> {
    (0..plan.bytes().unwrap()).map(|b| (b * 31 + i * 7) as u8).collect()
}

fn check(model: &Checkpoint, metadata: &Metadata, plans: &[TensorPlan], size: u64) {
    assert_eq!(model.metadata(), metadata);
    assert_eq!(model.file_size(), size);
    assert_eq!(model.tensors().len(), plans.len());
    for (i, (plan, info)) in plans.iter().zip(model.tensors()).enumerate() {
        assert_eq!(
            (&plan.name, plan.element_type, &plan.shape),
            (&info.name, info.element_type, &info.shape)
        );
        assert_eq!(model.data(info), data(plan, i));
        assert_eq!(model.tensor(&plan.name).unwrap().data, data(plan, i));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gguf_comes_back(
        entries in btree_map(".{1,20}", value(), 0..8),
        plans in tensors(|t| t.ggml_id().is_some(), 4),
        alignment in prop_oneof![Just(None), (0u32..10).prop_map(Some)],
        piece in 1usize..300,
    ) {
        let mut metadata = Metadata::new();
        entries.into_iter().for_each(|(k, v)| metadata.set(k, v));
        if let Some(bits) = alignment {
            metadata.set("general.alignment", Value::U32(1 << bits));
        }
        let scratch = Scratch::in_memory();
        let path = scratch.path().join("out.gguf");
        let mut writer = gguf::Writer::create(&path, &metadata, &plans, false).unwrap();
        for (i, plan) in plans.iter().enumerate() {
            data(plan, i).chunks(piece).for_each(|piece| writer.write(piece).unwrap());
        }
        let size = writer.finish().unwrap();
        prop_assert_eq!(size, gguf::Writer::file_size(&metadata, &plans).unwrap());
        let model = Checkpoint::open(&path).unwrap();
        prop_assert_eq!(model.container(), Container::Gguf);
        check(&model, &metadata, &plans, size);
    }

    #[test]
    fn safetensors_come_back(
        entries in btree_map(".{0,20}", ".*", 0..6),
        plans in tensors(|t| safetensors::dtype(t).is_some(), 5),
        piece in 1usize..50,
    ) {
        let mut metadata = Metadata::new();
        entries.iter().for_each(|(k, v)| metadata.set(k.as_str(), v.as_str()));
        let scratch = Scratch::in_memory();
        let path = scratch.path().join("out.safetensors");
        let mut writer = safetensors::Writer::create(&path, &metadata, &plans, false).unwrap();
        for (i, plan) in plans.iter().enumerate() {
            data(plan, i).chunks(piece).for_each(|piece| writer.write(piece).unwrap());
        }
        let size = writer.finish().unwrap();
        prop_assert_eq!(size, safetensors::Writer::file_size(&metadata, &plans).unwrap());
        let model = Checkpoint::open(&path).unwrap();
        check(&model, &metadata, &plans, size);

        // The reference implementation reads it too, and data begin on 8 bytes as everybody expects.
        let bytes = std::fs::read(&path).unwrap();
        let reference = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(reference.len(), plans.len());
        for (i, plan) in plans.iter().enumerate() {
            let view = reference.tensor(&plan.name).unwrap();
            let data = data(plan, i);
            prop_assert_eq!(view.shape(), &plan.shape[..]);
            prop_assert_eq!(view.data(), &data[..]);
        }
        prop_assert_eq!(bytes[0] % 8, 0);
    }
}
