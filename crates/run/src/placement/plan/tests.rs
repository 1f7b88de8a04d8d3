//! Plans of models of known shapes on made-up machines.

use quern_tensor_io::{ElementType as T, Remedy};

use super::super::sizes::{ScratchSizes, device_bytes};
use super::planner::ENDS;
use super::*;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn unit(matrices: &[(T, usize, usize)]) -> UnitSize {
    let ram = |&(t, rows, columns): &(T, usize, usize)| (t.row_bytes(columns).unwrap() * rows) as u64;
    let gpu = |&(t, rows, columns): &(T, usize, usize)| device_bytes(t, rows, columns);
    let mapped = matrices.iter().map(ram).sum();
    UnitSize { mapped, made: 0, gpu: matrices.iter().map(gpu).sum(), touched: mapped }
}

/// Mistral 7B: 32 blocks of 4096, 8 key heads of 128, 14336 wide, 32000 tokens; keys and values in f16.
fn seven_b(block: impl Fn(usize) -> (T, T), head: T) -> Sizes {
    let blocks = (0..32).map(|layer| {
        let (most, some) = block(layer);
        unit(&[
            (most, 4096, 4096),
            (most, 1024, 4096),
            (some, 1024, 4096),
            (most, 4096, 4096),
            (most, 14336, 4096),
            (most, 14336, 4096),
            (some, 4096, 14336),
        ])
    });
    let table = unit(&[(block(8).0, 32000, 4096)]);
    Sizes {
        embedding: UnitSize { gpu: 0, touched: 0, ..table },
        embedding_row: table.mapped / 32000,
        units: blocks.chain([unit(&[(head, 32000, 4096)])]).collect(),
        reads: Vec::new(),
        largest_source: 0,
        tied: false,
        cache_position: 2 * 8 * 128 * 2,
        cache_stays: false,
        scratch: ScratchSizes {
            ram: 8 * MIB,
            ram_token: 200 << 10,
            gpu: 32 * MIB,
            gpu_token: 250 << 10,
            ..ScratchSizes::default()
        },
        logits_row: 4 * 32000,
        parameters: 7_241_732_096,
        file_size: 0,
    }
}

/// llama-quantize's mix: every other block has its values and its down projection in 6 bits.
fn q4_k_m() -> Sizes {
    seven_b(|layer| (T::Q4K, if layer % 2 == 0 { T::Q6K } else { T::Q4K }), T::Q6K)
}

fn f16() -> Sizes {
    seven_b(|_| (T::F16, T::F16), T::F16)
}

fn gpus(rooms: &[u64]) -> Vec<GpuRoom> {
    let gpu = |(index, &room): (usize, &u64)| GpuRoom {
        index,
        name: format!("card {index}"),
        total: room + GIB,
        free: room,
        room,
        limited: false,
    };
    rooms.iter().enumerate().map(gpu).collect()
}

fn machine(rooms: &[u64]) -> Capacity {
    Capacity { gpus: gpus(rooms), ram: None }
}

fn session(gpu_layers: GpuLayers, context: usize) -> Session {
    Session { gpu_layers, context, batch: 512, rows: 1 }
}

fn place(sizes: &Sizes, capacity: &Capacity, gpu_layers: GpuLayers, context: usize) -> Result<Plan, NoFit> {
    let plan = Plan::new(sizes, capacity, session(gpu_layers, context))?;
    // What holds of every plan.
    assert_eq!(plan.units.len(), sizes.units.len());
    for usage in &plan.usage {
        if let Location::Gpu(gpu) = usage.location {
            assert!(usage.total() <= capacity.gpus[gpu].room, "{usage:?}");
        }
        let blocks: usize = plan.blocks_on(usage.location).iter().map(Range::len).sum();
        assert_eq!(blocks, usage.blocks, "{usage:?}");
    }
    let blocks: usize = plan.usage.iter().map(|usage| usage.blocks).sum();
    assert_eq!(blocks, sizes.blocks());
    assert_eq!(plan.usage.iter().filter(|usage| usage.head).count(), 1);
    let first = plan.units.iter().position(|unit| matches!(unit, Location::Gpu(_)));
    let on_gpus = &plan.units[first.unwrap_or(plan.units.len())..];
    assert!(on_gpus.is_sorted() && on_gpus.iter().all(|unit| matches!(unit, Location::Gpu(_))), "{plan:?}");
    Ok(plan)
}

fn one(range: Range<usize>) -> Vec<Range<usize>> {
    vec![range]
}

fn auto(sizes: &Sizes, capacity: &Capacity, context: usize) -> Plan {
    place(sizes, capacity, GpuLayers::Auto, context).unwrap()
}

#[test]
fn the_shape_is_that_of_the_file() {
    let sizes = q4_k_m();
    let weights = sizes.embedding.mapped + sizes.units.iter().map(|unit| unit.mapped).sum::<u64>();
    assert!((4.05..4.15).contains(&(weights as f64 / GIB as f64)), "{weights}");
}

#[test]
fn a_model_that_fits_is_on_one_gpu_whole() {
    let (sizes, context) = (q4_k_m(), 4096);
    let plan = auto(&sizes, &machine(&[24 * GIB]), context);
    assert!(plan.units.iter().all(|&unit| unit == Location::Gpu(0)));
    assert_eq!((plan.gpu_units(), plan.shortage), (33, None));
    let gpu = plan.on(Location::Gpu(0)).unwrap();
    assert_eq!((gpu.blocks, gpu.head, gpu.cache), (32, true, 512 * MIB));
    assert_eq!(gpu.weights, sizes.units.iter().map(|unit| unit.gpu).sum::<u64>());
    assert_eq!(gpu.scratch, 32 * MIB + 512 * (250 << 10) + 4 * 32000, "no copies of other units");
    let ram = plan.on(Location::Ram).unwrap();
    assert_eq!((ram.blocks, ram.weights, ram.cache), (0, sizes.embedding.mapped, 0));
    assert_eq!(
        place(&sizes, &machine(&[24 * GIB]), GpuLayers::All, context),
        Ok(Plan { session: session(GpuLayers::All, context), ..plan.clone() })
    );
    // The first card that can hold it, not the largest.
    let plan = auto(&sizes, &machine(&[2 * GIB, 7 * GIB, 80 * GIB]), context);
    assert!(plan.units.iter().all(|&unit| unit == Location::Gpu(1)));
}

#[test]
fn keys_and_values_take_the_place_of_layers() {
    let sizes = q4_k_m();
    let layers = |context| auto(&sizes, &machine(&[7 * GIB + GIB / 2]), context).gpu_units();
    assert_eq!((layers(4096), layers(16384)), (33, 33));
    let by_context = [32768, 49152, 65536, 131_072].map(layers);
    assert!(by_context.is_sorted_by(|a, b| a > b), "{by_context:?}");
    assert!(by_context[0] < 33 && by_context[3] > 3, "{by_context:?}");
    let plan = auto(&sizes, &machine(&[7 * GIB + GIB / 2]), 32768);
    let shortage = plan.shortage.unwrap();
    assert!(shortage.needed_bytes > 8 * GIB && shortage.room_bytes == 7 * GIB + GIB / 2, "{shortage:?}");
    let on_gpu = plan.on(Location::Gpu(0)).unwrap();
    let in_ram = plan.on(Location::Ram).unwrap();
    assert!(on_gpu.head && plan.units[0] == Location::Ram, "the last layers are on the GPU");
    assert_eq!(on_gpu.cache + in_ram.cache, 4 * GIB, "a layer's cache is with the layer");
    assert_eq!(in_ram.cache, in_ram.blocks as u64 * 128 * MIB);
    // One more would not fit.
    let more = place(&sizes, &machine(&[7 * GIB + GIB / 2]), GpuLayers::Last(plan.gpu_units() + 1), 32768);
    assert!(matches!(more, Err(NoFit::Gpu { fitting, .. }) if fitting == plan.gpu_units()), "{more:?}");
}

#[test]
fn so_many_layers_as_asked_for_the_head_first() {
    let (sizes, capacity) = (q4_k_m(), machine(&[24 * GIB]));
    let layers = |count| place(&sizes, &capacity, GpuLayers::Last(count), 4096).unwrap();
    let plan = layers(17);
    assert_eq!(plan.blocks_on(Location::Gpu(0)), one(16..32));
    assert_eq!(plan.blocks_on(Location::Ram), one(0..16));
    assert_eq!(plan.shortage, None, "nothing else was asked for");
    let gpu = plan.on(Location::Gpu(0)).unwrap();
    let largest = sizes.units[..16].iter().map(|unit| unit.gpu).max().unwrap();
    assert_eq!(
        gpu.scratch,
        32 * MIB + 512 * (250 << 10) + 4 * 32000 + 2 * largest,
        "with copies of two units"
    );
    let ram = plan.on(Location::Ram).unwrap();
    let read: u64 = sizes.units[..16].iter().map(|unit| unit.touched).sum();
    assert_eq!((ram.read_per_token, ram.head), (read, false));
    let plan = layers(1);
    assert!(plan.on(Location::Gpu(0)).unwrap().head && plan.blocks_on(Location::Gpu(0)).is_empty());
    assert_eq!(layers(0).gpu_units(), 0);
    assert_eq!((layers(33).gpu_units(), layers(99).gpu_units()), (33, 33), "99 is a usual way to say all");
}

#[test]
fn layers_that_were_asked_for_and_do_not_fit_are_an_error_with_numbers() {
    let error = place(&f16(), &machine(&[8 * GIB]), GpuLayers::Last(99), 4096).unwrap_err();
    let NoFit::Gpu { layers: 33, first: 0, fitting, .. } = error else { panic!("{error:?}") };
    assert!((15..20).contains(&fitting), "{fitting}");
    let text = error.to_string();
    for part in
        ["33 layers (from block 0 on)", "do not fit on the GPU:", "8192 MiB", &format!("last {fitting} fit")]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(place(&f16(), &machine(&[8 * GIB]), GpuLayers::Last(fitting), 4096).is_ok());
    assert_eq!(error.remedy(), Remedy::FewerGpuLayers { fitting });
    let error = place(&f16(), &machine(&[64 * MIB, 64 * MIB]), GpuLayers::Last(1), 4096).unwrap_err();
    assert!(error.to_string().contains("from the head on") && error.to_string().contains("GPUs"), "{error}");
    assert!(error.to_string().contains("not even the last one"), "{error}");
    assert_eq!(auto(&f16(), &machine(&[64 * MIB]), 4096).gpu_units(), 0);
}

#[test]
fn two_cards_share_what_one_cannot_hold() {
    let sizes = f16();
    let plan = auto(&sizes, &machine(&[10 * GIB, 10 * GIB]), 4096);
    let ranges = [0, 1].map(|gpu| plan.blocks_on(Location::Gpu(gpu)));
    assert_eq!(plan.gpu_units(), 33);
    assert_eq!((ranges[0].len(), ranges[1].len()), (1, 1), "one boundary");
    let used = [0, 1].map(|gpu| plan.on(Location::Gpu(gpu)).unwrap().total());
    let block = sizes.units[0].gpu;
    assert!(used[0].abs_diff(used[1]) <= block + 64 * MIB, "{used:?}");
    // In proportion to their memory.
    let plan = auto(&sizes, &machine(&[6 * GIB, 12 * GIB]), 4096);
    let blocks = [0, 1].map(|gpu| plan.on(Location::Gpu(gpu)).unwrap().blocks);
    assert!((10..=11).contains(&blocks[0]) && (21..=22).contains(&blocks[1]), "{blocks:?}");
    // Three cards where two are enough: two.
    let plan = auto(&sizes, &machine(&[10 * GIB, 2 * GIB, 10 * GIB]), 4096);
    assert!(plan.on(Location::Gpu(1)).is_none());
    assert!(plan.on(Location::Gpu(0)).is_some() && plan.on(Location::Gpu(2)).is_some());
    // And where all are not enough, all are full.
    let plan = auto(&sizes, &machine(&[3 * GIB, 3 * GIB, 3 * GIB]), 4096);
    assert!((17..=21).contains(&plan.gpu_units()), "{}", plan.gpu_units());
    assert_eq!(plan.usage.len(), 4);
    assert_eq!(plan.on(Location::Ram).unwrap().blocks, 33 - plan.gpu_units());
}

#[test]
fn a_mixture_of_experts_counts_all_experts_and_reads_some() {
    // Mixtral's shape in Q4_0: 8 experts, 2 used.
    let mut sizes = seven_b(|_| (T::Q4_0, T::Q4_0), T::Q6K);
    let attention =
        unit(&[(T::Q4_0, 4096, 4096), (T::Q4_0, 1024, 4096), (T::Q4_0, 1024, 4096), (T::Q4_0, 4096, 4096)]);
    let experts = unit(&[(T::Q4_0, 8 * 14336, 4096), (T::Q4_0, 8 * 14336, 4096), (T::Q4_0, 8 * 4096, 14336)]);
    let block = UnitSize {
        mapped: attention.mapped + experts.mapped,
        made: 0,
        gpu: attention.gpu + experts.gpu,
        touched: attention.touched + experts.touched / 4,
    };
    sizes.units[..32].fill(block);
    let plan = auto(&sizes, &machine(&[23 * GIB]), 4096);
    assert!((25..=29).contains(&plan.gpu_units()), "{}", plan.gpu_units());
    let ram = plan.on(Location::Ram).unwrap();
    assert_eq!(ram.read_per_token, ram.blocks as u64 * block.touched);
    assert!(ram.read_per_token * 3 < ram.weights, "{ram:?}");
    assert_eq!(auto(&sizes, &machine(&[80 * GIB]), 4096).gpu_units(), 33);
}

fn bounded(rooms: &[u64], bound: u64, asked: bool) -> Capacity {
    Capacity { gpus: gpus(rooms), ram: Some(RamRoom { bound, other: 50 * MIB, asked }) }
}

#[test]
fn what_ram_does_not_hold_is_streamed() {
    let sizes = f16();
    let plan = auto(&sizes, &bounded(&[], 6 * GIB, true), 4096);
    let (ram, disk) = (plan.on(Location::Ram).unwrap(), plan.on(Location::Disk).unwrap());
    assert_eq!(plan.blocks_on(Location::Ram), one(0..ram.blocks), "kept from the first on");
    assert!(ram.blocks == 12 && disk.head && !ram.head, "{plan:?}");
    assert_eq!(ram.cache, 512 * MIB, "the cache of streamed layers is in RAM too");
    assert_eq!(disk.read_per_token, disk.weights);
    // With a GPU it is the layers between that are streamed.
    let plan = auto(&sizes, &bounded(&[6 * GIB], 4 * GIB, true), 4096);
    let kept = plan.on(Location::Ram).unwrap().blocks;
    let first = 33 - plan.gpu_units();
    assert!(kept > 0 && kept < first, "{plan:?}");
    assert_eq!(plan.blocks_on(Location::Disk), one(kept..first));
    assert_eq!(plan.blocks_on(Location::Gpu(0)), one(first..32));
    // What the system has counts only for a model that is larger.
    let plan = auto(&sizes, &bounded(&[], 16 * GIB, false), 4096);
    assert!(plan.units.iter().all(|&unit| unit == Location::Ram));
    let plan = auto(&sizes, &bounded(&[], 12 * GIB, false), 4096);
    assert!(plan.on(Location::Disk).is_some());
    let plan = auto(&sizes, &bounded(&[6 * GIB], 12 * GIB, false), 4096);
    assert!(plan.on(Location::Disk).is_none(), "the rest of it is not larger");
}

#[test]
fn ram_too_small_for_one_layer_is_an_error_with_numbers() {
    let error = place(&f16(), &bounded(&[], 700 * MIB, true), GpuLayers::Auto, 4096).unwrap_err();
    assert_eq!(error.remedy(), Remedy::RaiseMemory);
    for part in ["700 MiB of memory to be used", "the largest layer takes", "keys and values 512 MiB"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
    // On a GPU it needs none of that.
    assert!(place(&f16(), &bounded(&[24 * GIB], 700 * MIB, true), GpuLayers::Auto, 4096).is_ok());
    let error = place(&f16(), &bounded(&[], 700 * MIB, false), GpuLayers::Auto, 4096).unwrap_err();
    assert_eq!(error.remedy(), Remedy::FreeMemory);
}

#[test]
fn the_batch_becomes_smaller_before_nothing_fits() {
    let (sizes, capacity) = (f16(), bounded(&[], 1050 * MIB, true));
    let wide = session(GpuLayers::Auto, 4096);
    assert!(Plan::new(&sizes, &capacity, wide).is_err());
    let plan = Plan::fitting(&sizes, &capacity, wide).unwrap();
    assert_eq!(plan.session, Session { batch: 256, ..wide });
    let weights: u64 = sizes.units.iter().map(|unit| unit.gpu).sum();
    let tight = machine(&[weights + 512 * MIB + 4 * 32000 + sizes.scratch.on_gpu(32)]);
    let all = session(GpuLayers::All, 4096);
    assert!(Plan::new(&sizes, &tight, Session { batch: 32, ..all }).is_ok());
    assert!(Plan::fitting(&sizes, &tight, all).is_err(), "a GPU needs its batches");
    let roomy = bounded(&[], 2 * GIB, true);
    assert_eq!(Plan::fitting(&sizes, &roomy, wide), Plan::new(&sizes, &roomy, wide));
    let error = Plan::fitting(&sizes, &bounded(&[], 700 * MIB, true), wide).unwrap_err();
    assert!(
        matches!(error, NoFit::Ram { scratch, .. } if scratch == sizes.scratch.in_ram(32) + 4 * 32000),
        "{error:?}"
    );
}

#[test]
fn weights_made_while_loading_stay_and_are_not_streamed() {
    let mut sizes = q4_k_m();
    for unit in &mut sizes.units[..32] {
        (unit.made, unit.mapped) = (unit.mapped, 0);
    }
    let plan = auto(&sizes, &bounded(&[], 6 * GIB, true), 4096);
    assert!(plan.on(Location::Disk).is_none());
    let error = place(&sizes, &bounded(&[], 4 * GIB, true), GpuLayers::Auto, 4096).unwrap_err();
    assert!(matches!(error, NoFit::Ram { made, .. } if made > 3 * GIB), "{error:?}");
    assert!(place(&sizes, &bounded(&[24 * GIB], GIB, true), GpuLayers::Auto, 4096).is_ok());
    // The head is mapped and can be streamed behind blocks that are not.
    let fixed: u64 = sizes.units.iter().map(|unit| unit.made).sum();
    let tight =
        fixed + 512 * MIB + sizes.scratch.in_ram(512) + 4 * 32000 + 50 * MIB + sizes.units[32].mapped + ENDS;
    let plan = auto(&sizes, &bounded(&[], tight, true), 4096);
    assert_eq!((plan.units[31], plan.units[32]), (Location::Ram, Location::Disk));
}

#[test]
fn a_tied_head_is_the_table_in_ram_and_a_copy_on_a_gpu() {
    let mut sizes = seven_b(|_| (T::Q4_0, T::Q4_0), T::Q4_0);
    sizes.tied = true;
    let blocks: u64 = sizes.units[..32].iter().map(|unit| unit.mapped).sum();
    let plan = auto(&sizes, &machine(&[]), 4096);
    assert_eq!(plan.on(Location::Ram).unwrap().weights, blocks + sizes.units[32].mapped, "counted once");
    let plan = auto(&sizes, &machine(&[24 * GIB]), 4096);
    assert_eq!(plan.on(Location::Ram).unwrap().weights, sizes.embedding.mapped);
    assert_eq!(plan.on(Location::Gpu(0)).unwrap().weights, sizes.units.iter().map(|u| u.gpu).sum::<u64>());
}
