//! Random damage: never a panic, and what is accepted can be read.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use quern_tensor_io::Checkpoint;

use super::Scratch;
use super::bytes::{Gguf, T_Q4_0, safetensors, sound_gguf, sound_safetensors};
use super::pytorch_bytes::{archive, legacy, sound_archive, sound_legacy, sound_pickle};

/// Overwrites, removals and insertions, all small enough to leave most of the file meaningful.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    SetU64(usize, u64),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    // Numbers that sit on the edges of size computations.
    let edge = prop_oneof![
        any::<u64>(),
        0u64..64,
        (0u32..64, -2i64..3).prop_map(|(bit, d)| (1u64 << bit).wrapping_add_signed(d)),
        Just(u64::MAX),
    ];
    prop_oneof![
        3 => (any::<usize>(), any::<u8>()).prop_map(|(at, v)| Damage::Set(at, v)),
        3 => (any::<usize>(), edge).prop_map(|(at, v)| Damage::SetU64(at, v)),
        1 => (any::<usize>(), 1usize..9).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (any::<usize>(), vec(any::<u8>(), 1..9)).prop_map(|(at, v)| Damage::Insert(at, v)),
    ]
}

fn apply(mut file: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let length = file.len().max(1);
        match damage {
            Damage::Set(at, v) => file.iter_mut().skip(at % length).take(1).for_each(|b| *b = *v),
            Damage::SetU64(at, v) => {
                file.iter_mut().skip(at % length).zip(v.to_le_bytes()).for_each(|(b, v)| *b = v);
            }
            Damage::Remove(at, n) => {
                let at = at % length;
                file.drain(at.min(file.len())..(at + n).min(file.len()));
            }
            Damage::Insert(at, v) => {
                let at = (at % length).min(file.len());
                file.splice(at..at, v.iter().copied());
            }
        }
    }
    file
}

/// Opens the file; touches every byte of every tensor if that works, and the text of the error if not.
fn open_and_touch(scratch: &Scratch, name: &str, content: &[u8]) -> bool {
    let path = scratch.file(name, content);
    match Checkpoint::open(&path) {
        Ok(model) => {
            if name.ends_with(".safetensors") {
                // What quern accepts, the format's reference does too.
                safetensors::SafeTensors::deserialize(content).expect("the reference accepts it");
            }
            for info in model.tensors() {
                let data = model.data(info);
                assert_eq!(data.len(), info.bytes);
                assert_eq!(info.element_type.row_bytes(info.columns()).unwrap() * info.rows(), info.bytes);
                std::hint::black_box(data.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)));
            }
            true
        }
        Err(e) => {
            assert!(e.to_string().starts_with(path.to_str().unwrap()));
            false
        }
    }
}

/// Every value type and several tensors, so that damage finds every branch.
fn varied_gguf() -> Vec<u8> {
    let mut file = Gguf::new(4, 25);
    for id in 0..13u32 {
        if id != 9 {
            let width = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][id as usize];
            let text = id == 8;
            file = file.string(&format!("k{id}")).u32(id);
            file = if text { file.string("text") } else { file.bytes(&vec![0; width]) };
            file = file.string(&format!("a{id}")).u32(9).u32(id).u64(2);
            file = if text { file.string("x").string("yz") } else { file.bytes(&vec![0; 2 * width]) };
        }
    }
    file.entry("general.alignment", 16)
        .tensor("a", &[32, 2], T_Q4_0, 0)
        .tensor("b", &[3, 1, 2], 1, 48)
        .tensor("c", &[], 0, 64)
        .tensor("d", &[5, 1, 1, 1], 24, 80)
        .data(16, 85)
        .0
}

/// Runs `check` on many values, all in one folder: making a folder costs more than the check.
fn many<S: Strategy>(strategy: S, check: impl Fn(&Scratch, S::Value)) {
    let config = ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() };
    let scratch = Scratch::in_memory();
    let run = |value| {
        check(&scratch, value);
        Ok(())
    };
    if let Err(e) = TestRunner::new(config).run(&strategy, run) {
        panic!("{e}");
    }
}

#[test]
fn damaged_gguf_never_panics() {
    let sound = varied_gguf();
    many(vec(damage(), 1..5), |scratch, damages| {
        open_and_touch(scratch, "damaged.gguf", &apply(sound.clone(), &damages));
    });
}

#[test]
fn damaged_safetensors_never_panic() {
    let sound = sound_safetensors();
    many(vec(damage(), 1..5), |scratch, damages| {
        open_and_touch(scratch, "damaged.safetensors", &apply(sound.clone(), &damages));
    });
}

#[test]
fn damaged_pytorch_files_never_panic() {
    let sound = [sound_archive(), sound_legacy()];
    many((vec(damage(), 1..5), 0..2usize), |scratch, (damages, kind)| {
        open_and_touch(scratch, "damaged.bin", &apply(sound[kind].clone(), &damages));
    });
}

/// Damage within the pickle only, everything around it sound.
#[test]
fn damaged_pickles_never_panic() {
    many((vec(damage(), 1..4), any::<bool>()), |scratch, (damages, old)| {
        let pickle = apply(sound_pickle(), &damages);
        let file = match old {
            true => legacy(pickle, &[("1", 6, 12), ("0", 4, 16)]),
            false => archive(pickle, &[16, 12]),
        };
        open_and_touch(scratch, "damaged.bin", &file);
    });
}

/// Opcodes in any order.
#[test]
fn programs_never_panic() {
    let opcode = prop_oneof![
        any::<u8>().prop_map(|b| vec![b]),
        proptest::sample::select(b"(012}])NlatdeusRbQq\x93\x94\x81\x85\x86\x87\x88\x8f\x90\x91".to_vec())
            .prop_map(|b| vec![b]),
        (0u8..4).prop_map(|i| vec![b'q', i]),
        (0u8..4).prop_map(|i| vec![b'h', i]),
        (0u8..4).prop_map(|i| vec![b'K', i]),
        proptest::sample::select(vec![
            &b"ctorch._utils\n_rebuild_tensor\n"[..],
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ccollections\nOrderedDict\n",
            b"ctorch\nFloatStorage\n",
            b"X\x07\x00\x00\x00storage",
            b"X\x01\x00\x00\x000",
            b"(X\x07\x00\x00\x00storagectorch\nShortStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQ",
            b"K\x00K\x02K\x02\x86K\x01K\x02\x86",
        ])
        .prop_map(<[u8]>::to_vec),
    ];
    many(vec(opcode, 0..40), |scratch, program| {
        let pickle = [b"\x80\x02}".to_vec(), program.concat(), b".".to_vec()].concat();
        open_and_touch(scratch, "program.bin", &archive(pickle, &[16]));
    });
}

#[test]
fn plausible_safetensors_headers_never_panic() {
    let dtype = "F32|F16|U8|BOOL|F4|[A-Z][0-9]{1,2}";
    let shape = vec(prop_oneof![0u64..5, any::<u64>()], 0..4);
    let offsets = vec(prop_oneof![0u64..40, any::<u64>()], 2);
    many((dtype, shape, offsets, 0usize..40), |scratch, (dtype, shape, offsets, n)| {
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{offsets:?}}}}}"#);
        open_and_touch(scratch, "w.safetensors", &safetensors(&header, n));
    });
}

#[test]
fn noise_never_panics() {
    many((vec(any::<u8>(), 0..200), 0..5), |scratch, (noise, kind)| {
        let (name, start): (_, &[u8]) = match kind {
            0 => ("noise.gguf", b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"),
            1 => ("noise.safetensors", b"\x10\0\0\0\0\0\0\0{"),
            2 => ("noise.bin", b"PK\x03\x04"),
            3 => ("noise.pt", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."),
            _ => ("noise.json", b"{"),
        };
        open_and_touch(scratch, name, &[start, &noise].concat());
    });
}

#[test]
fn the_undamaged_files_are_sound() {
    let scratch = Scratch::in_memory();
    assert!(open_and_touch(&scratch, "a.gguf", &varied_gguf()));
    assert!(open_and_touch(&scratch, "b.gguf", &sound_gguf()));
    assert!(open_and_touch(&scratch, "c.safetensors", &sound_safetensors()));
    assert!(open_and_touch(&scratch, "d.bin", &sound_archive()));
    assert!(open_and_touch(&scratch, "e.pt", &sound_legacy()));
}
