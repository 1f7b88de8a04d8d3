//! Sizes from headers against what a loaded model says, for every architecture and packed scheme of `fixtures/`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::common::fixture;
use quern_model::View;
use quern_run::placement::{Capacity, GpuLayers, Location, Made, Plan, Session, SizeOptions, Sizes};
use quern_run::{KvType, LoadIn, LoadOptions, Model};
use quern_tensor_io::{Checkpoint, ElementType};

fn models() -> Vec<PathBuf> {
    let tiny = std::fs::read_dir(fixture("architectures")).unwrap();
    let mut all: Vec<_> = tiny.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    all.extend(["bookworm-4m", "bookworm-4m-Q4_K_M.gguf"].map(fixture));
    assert!(all.len() > 25, "{}", all.len());
    all
}

fn sizes(checkpoint: &Checkpoint) -> Sizes {
    let options = SizeOptions { threads: 1, load_in: None, kv: KvType::F16, made: Made::WhileLoading };
    Sizes::of(&View::stored(checkpoint).unwrap(), options).unwrap()
}

#[test]
fn sizes_from_headers_are_those_of_the_loaded_model() {
    for path in models() {
        let name = path.display();
        let checkpoint = Arc::new(Checkpoint::open(&path).unwrap());
        let sizes = sizes(&checkpoint);
        let model = Model::load(checkpoint, LoadOptions { threads: 1, ..LoadOptions::default() }).unwrap();
        assert_eq!(model.sizes(KvType::F16), sizes, "{name}");
        assert_eq!(sizes.parameters, model.parameters(), "{name}");
        assert_eq!(sizes.blocks(), model.config().layers, "{name}");
        assert_eq!(sizes.file_size, model.file_size(), "{name}");
        // Position 0 reads one position of the cache of every layer that has one, and all states, which are of one size.
        let mut states = Vec::new();
        for kv in KvType::ALL {
            let sizes = model.sizes(kv);
            let touched: u64 = sizes.units.iter().map(|unit| unit.touched).sum();
            let step = |from| model.bytes_per_token(from + 1, kv) - model.bytes_per_token(from, kv);
            let position = step(0);
            // The keys of an indexer are read for texts longer than what attention reads.
            let kept = model.config().indexer.as_ref().map_or(position, |own| step(own.top_k));
            let planned = sizes.cache_position * sizes.blocks() as u64;
            assert!((kept..kept + sizes.blocks() as u64).contains(&planned), "{name} {kv:?}");
            let weights = touched + sizes.embedding.touched;
            let first = model.bytes_per_token(0, kv);
            let state = first.checked_sub(position + weights);
            states.push(state.unwrap_or_else(|| panic!("{name} {kv:?}: {first} {position} {weights}")));
        }
        let has_states = model.config().state_mixer().is_some();
        assert!(states.iter().all(|&s| s == states[0] && (s > 0) == has_states), "{name}: {states:?}");
        // All matrices; vectors, which are decoded, and the order of columns come on top.
        let ram: u64 = sizes.units.iter().map(|unit| unit.mapped + unit.made).sum();
        let head = sizes.units.last().unwrap();
        let counted =
            sizes.embedding.mapped + sizes.embedding.made + ram - if sizes.tied { head.mapped } else { 0 };
        let weights = model.weight_bytes().1;
        assert!(counted >= weights && counted < weights + weights / 2 + 65536, "{name}: {counted} {weights}");
        // Keys of latent attention are made once more in RAM, and on a GPU in plain numbers.
        for unit in sizes.units.iter().filter(|_| model.config().latent.is_none()) {
            assert!(unit.gpu > unit.mapped + unit.made - unit.made / 4, "{name}: {unit:?}");
        }
    }
}

#[test]
fn headers_alone_are_enough() {
    for path in models() {
        let whole = Checkpoint::open(&path).unwrap();
        let headers = Checkpoint::open(&path).unwrap().headers_only();
        assert_eq!(sizes(&whole), sizes(&headers), "{}", path.display());
    }
}

/// Converts the matrices of the blocks to one type.
#[derive(Debug)]
struct To(ElementType);

impl LoadIn for To {
    fn target(&self, name: &str) -> Option<ElementType> {
        name.contains("_proj").then_some(self.0)
    }

    fn encode(&self, _: &str, _: ElementType, _: usize, rows: &[f32], out: &mut [u8]) -> Result<(), String> {
        let bytes = rows.iter().flat_map(|value| value.to_le_bytes());
        out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte);
        Ok(())
    }
}

#[test]
fn what_is_made_while_loading_is_counted_as_such() {
    let plain = sizes(&Checkpoint::open(&fixture("bookworm-4m")).unwrap());
    assert!(plain.units[0].mapped > 20 * plain.units[0].made, "{plain:?}");
    let transposed = sizes(&Checkpoint::open(&fixture("architectures/gpt2")).unwrap());
    assert_eq!(transposed.units[0].mapped, 0, "transposed while loading");

    let wide = To(ElementType::F32);
    let options = LoadOptions { threads: 1, load_in: Some(&wide), ..LoadOptions::default() };
    let model = Model::open(&fixture("bookworm-4m"), options).unwrap();
    let widened = model.sizes(KvType::F16);
    assert_eq!(widened.units[0].mapped, 0);
    assert!(widened.units[0].made >= 2 * plain.units[0].mapped, "from f16 to f32");
    let sum = |sizes: &Sizes| sizes.units.iter().map(|unit| unit.mapped + unit.made).sum::<u64>();
    let (before, after) = (sum(&plain), sum(&widened));
    let matrices: u64 = plain.units[..plain.blocks()].iter().map(|unit| unit.mapped).sum();
    assert_eq!(after - before, matrices, "every byte of the matrices becomes two");
    let weights = model.weight_bytes();
    assert_eq!(weights.1 - weights.0, matrices);
}

#[test]
fn without_gpus_or_a_bound_everything_is_in_ram() {
    let sizes = sizes(&Checkpoint::open(&fixture("bookworm-4m-Q4_K_M.gguf")).unwrap());
    let session = Session { gpu_layers: GpuLayers::Auto, context: 512, batch: 512, rows: 1 };
    let plan = Plan::new(&sizes, &Capacity::default(), session).unwrap();
    assert!(plan.units.iter().all(|&unit| unit == Location::Ram));
    assert_eq!((plan.gpu_units(), plan.shortage), (0, None));
}
