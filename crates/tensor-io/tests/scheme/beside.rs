//! Weights of a GGUF file that have a factor in a tensor beside them.

use quern_tensor_io::scheme::{Packing, Scheme};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, TensorPlan, decode, gguf};

use ElementType::{F16, F32, I32, NVFP4, Q8_0};

type Tensor<'a> = (&'a str, ElementType, &'a [usize], Vec<u8>);

/// A file with these tensors, read.
fn read(tensors: &[Tensor<'_>]) -> Result<(Checkpoint, Option<Packing>, tempfile::TempDir), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let plan: Vec<_> = tensors
        .iter()
        .map(|(name, kind, shape, _)| TensorPlan {
            name: (*name).to_owned(),
            element_type: *kind,
            shape: shape.to_vec(),
        })
        .collect();
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    let mut writer = gguf::Writer::create(&file, &metadata, &plan, true).unwrap();
    tensors.iter().for_each(|t| writer.write(&t.3).unwrap());
    writer.finish().unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    let packing = Packing::read(&checkpoint).map_err(|e| e.to_string())?;
    Ok((checkpoint, packing, folder))
}

fn blocks(kind: ElementType, values: usize) -> Vec<u8> {
    // No scale is NaN or negative.
    (0..kind.row_bytes(values).unwrap()).map(|i| (i * 37 % 120) as u8).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn factors_multiply_whole_weights_and_experts() {
    let stack = blocks(NVFP4, 3 * 2 * 64);
    let (checkpoint, packing, _folder) = read(&[
        ("blk.0.ffn_up.weight", NVFP4, &[2, 128], blocks(NVFP4, 256)),
        ("blk.0.ffn_up.scale", F32, &[1], floats(&[0.25])),
        ("blk.0.ffn_up.input_scale", F32, &[1], floats(&[3.0])),
        ("blk.0.ffn_up_exps.weight", NVFP4, &[3, 2, 64], stack.clone()),
        ("blk.0.ffn_up_exps.scale", F32, &[3], floats(&[1.0, 2.0, 0.1])),
        ("blk.0.ffn_down.weight", NVFP4, &[2, 64], blocks(NVFP4, 128)),
        ("blk.0.something.scale", F32, &[7], floats(&[1.0; 7])),
    ])
    .unwrap();
    let packing = packing.unwrap();
    assert_eq!((packing.scheme(), packing.method()), (&Scheme::Nvfp4, Some("gguf")));
    assert!(
        packing.notes()[0].contains("(input_scale) of 1 of 2 layers are left out"),
        "{:?}",
        packing.notes()
    );
    assert_eq!(packing.layers().len(), 2);
    let one = packing.layer("blk.0.ffn_up.weight").unwrap();
    assert_eq!((one.rows, one.columns, one.parts.len()), (2, 128, 3));
    let mut plain = vec![0.0; 256];
    assert!(decode::to_f32(NVFP4, &blocks(NVFP4, 256), &mut plain));
    let mut values = vec![0.0; 256];
    one.decode(&checkpoint, 0..2, &mut values);
    assert!(values.iter().zip(&plain).all(|(v, p)| *v == p * 0.25) && plain.iter().any(|p| *p != 0.0));
    let form = one.exact_form(&checkpoint).unwrap();
    assert_eq!((form.element_type, form.factor), (NVFP4, Some(0.25)));

    let experts = packing.layer("blk.0.ffn_up_exps.weight").unwrap();
    assert_eq!((experts.rows, experts.columns), (6, 64));
    let in_file = experts.in_file(&checkpoint).unwrap();
    assert_eq!((in_file.element_type, in_file.block), (NVFP4, [2, 64]));
    assert_eq!(in_file.scales, [1.0, 2.0, 0.1]);
    let mut plain = vec![0.0; 384];
    assert!(decode::to_f32(NVFP4, &stack, &mut plain));
    let mut values = vec![0.0; 128];
    experts.decode(&checkpoint, 3..5, &mut values);
    for (i, value) in values.iter().enumerate() {
        let (at, factor) = (192 + i, if i < 64 { 2.0f32 } else { 0.1 });
        assert!((value - plain[at] * factor).abs() <= 1e-6 * value.abs(), "{value} at {i}");
    }
    assert!(experts.exact_form(&checkpoint).is_err());
}

#[test]
fn other_types_may_have_factors_too() {
    let (checkpoint, packing, _folder) = read(&[
        ("blk.0.attn_q.weight", Q8_0, &[2, 64], blocks(Q8_0, 128)),
        ("blk.0.attn_q.scale", F32, &[1], floats(&[-2.0])),
    ])
    .unwrap();
    let packing = packing.unwrap();
    assert_eq!(packing.scheme(), &Scheme::Mixed);
    let form = packing.layers()[0].block_form(&checkpoint);
    assert_eq!((form.element_type, form.factor, form.exact), (Q8_0, -2.0, true));
}

#[test]
fn broken_factors_are_refused() {
    for (kind, shape, data, part) in [
        (F16, &[1usize][..], vec![0; 2], "expected f32"),
        (I32, &[1], vec![0; 4], "expected f32"),
        (F32, &[2], vec![0; 8], "has 2 numbers; a scale has one, or one for each of 1 experts"),
        (F32, &[1], floats(&[f32::NAN]), "holds NaN"),
        (F32, &[1], floats(&[f32::INFINITY]), "holds inf"),
    ] {
        let refused = read(&[
            ("blk.0.ffn_up.weight", NVFP4, &[2, 64], blocks(NVFP4, 128)),
            ("blk.0.ffn_up.scale", kind, shape, data),
        ]);
        let Err(text) = refused else { panic!("accepted; expected: {part}") };
        assert!(text.contains("blk.0.ffn_up.scale") && text.contains(part), "{text}");
    }
    // Integers have no values to multiply.
    let refused = read(&[
        ("blk.0.ffn_up.weight", I32, &[2, 64], vec![0; 512]),
        ("blk.0.ffn_up.scale", F32, &[1], floats(&[1.0])),
    ]);
    let Err(text) = refused else { panic!("accepted") };
    assert!(text.contains("numbers of type i32 are not read"), "{text}");
}
