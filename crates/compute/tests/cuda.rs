//! The CUDA layer on a real card: memory, copies, kernels, graphs, and what happens when something is refused or fails.
//! Without a card the tests say that they were skipped; with `QUERN_TEST_CUDA=1` they fail instead.
#![cfg(feature = "cuda")]

mod card;

use std::process::Command;

use quern_compute::cuda::{
    Card, CudaError, Event, Function, Launch, Memory, MemoryError, Pinned, Pointer, Stream, cards,
};
use quern_tensor_io::Remedy;
use zerocopy::IntoBytes;

use card::card;

type Result<T = ()> = std::result::Result<T, CudaError>;

/// Arguments of `vector_add`.
#[derive(Clone, Copy)]
#[repr(C)]
struct VectorAdd {
    a: Pointer,
    b: Pointer,
    out: Pointer,
    n: u32,
}

/// Three vectors on a card.
struct Vectors {
    stream: Stream,
    a: Memory,
    b: Memory,
    out: Memory,
    n: u32,
}

impl Vectors {
    /// `a[i] = i`, `b[i] = 1 / 4`.
    fn new(card: &Card, n: u32) -> Result<Self> {
        let bytes = n as usize * 4;
        let stream = Stream::new(card)?;
        let (a, b, out) = (Memory::new(card, bytes)?, Memory::new(card, bytes)?, Memory::new(card, bytes)?);
        let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
        stream.upload(&a, 0, values.as_bytes())?;
        stream.upload(&b, 0, vec![0.25f32; n as usize].as_bytes())?;
        stream.fill(&out, 0, bytes, 0)?;
        Ok(Self { stream, a, b, out, n })
    }

    fn arguments(&self, a: &Memory, out: &Memory) -> VectorAdd {
        VectorAdd { a: a.pointer(), b: self.b.pointer(), out: out.pointer(), n: self.n }
    }

    fn launch<'a>(&self, function: &'a Function) -> Launch<'a> {
        Launch::new(function).grid(self.n.div_ceil(256), 1, 1).block(256)
    }

    fn read(&self, memory: &Memory) -> Result<Vec<f32>> {
        let mut values = vec![0f32; self.n as usize];
        self.stream.download(values.as_mut_bytes(), memory, 0)?;
        Ok(values)
    }

    /// Whether the vector is `i + quarters / 4`.
    fn holds(&self, memory: &Memory, quarters: usize) -> Result<bool> {
        let added = quarters as f32 * 0.25;
        Ok(self.read(memory)?.iter().enumerate().all(|(i, &value)| value == i as f32 + added))
    }
}

#[test]
fn a_machine_without_a_card_gets_one_sentence() {
    let Err(error) = Card::open(0) else {
        let first = cards().expect("a card was opened").swap_remove(0);
        assert_eq!(first.index, 0);
        assert!(first.multiprocessors > 0 && first.memory > 1 << 30 && !first.name.is_empty(), "{first:?}");
        let error = Card::open(99).expect_err("no machine has a hundred cards");
        assert!(matches!(error, CudaError::NoSuchCard { index: 99, .. }), "{error}");
        return;
    };
    let sentence = error.to_string();
    assert!(!sentence.contains('\n') && sentence.contains("NVIDIA"), "{sentence}");
    assert!(error.remedy().is_some(), "{error:?}");
    assert_eq!(cards().expect_err("as for one card").to_string(), sentence);
}

#[test]
fn what_is_copied_comes_back() -> Result {
    let Some(card) = card() else { return Ok(()) };
    let stream = Stream::new(&card)?;
    let memory = Memory::new(&card, 1 << 20)?;
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    stream.upload(&memory, 0, &bytes)?;
    let second = Memory::new(&card, 1 << 20)?;
    stream.fill(&second, 0, 1 << 20, 7)?;
    stream.copy((&second, 256), (&memory, 1000), 5000)?;
    let mut back = vec![0; 1 << 20];
    stream.download(&mut back, &second, 0)?;
    assert!(back[..256].iter().chain(&back[5256..]).all(|&byte| byte == 7));
    assert_eq!(back[256..5256], bytes[1000..6000]);

    let mut pinned = Pinned::new(&card, 4096)?;
    assert!(pinned.iter().all(|&byte| byte == 0));
    pinned.copy_from_slice(&bytes[..4096]);
    let mut other = Pinned::new(&card, 4096)?;
    // SAFETY: both are kept and not looked at until the stream is idle.
    unsafe {
        stream.upload_later(&second, 8192, &pinned)?;
        stream.download_later(&mut other, &second, 8192)?;
    }
    stream.synchronize()?;
    assert!(stream.is_idle()?);
    assert_eq!(other[..], bytes[..4096]);

    let beyond = stream.upload(&memory, (1 << 20) - 10, &bytes[..11]).expect_err("one byte too many");
    assert!(matches!(beyond, CudaError::Bounds { bytes: 11, .. }), "{beyond}");
    let overflow = memory.range(usize::MAX, 2).expect_err("wraps");
    assert!(matches!(overflow, CudaError::Bounds { .. }), "{overflow}");
    Ok(())
}

#[test]
fn kernels_run_with_a_struct_or_its_fields() -> Result {
    let Some(card) = card() else { return Ok(()) };
    let vectors = Vectors::new(&card, 100_003)?;
    for name in ["vector_add", "vector_add_parameters"] {
        let function = card.function("vector_add", name)?;
        assert!(function.registers()? > 0 && function.max_threads()? >= 256);
        assert_eq!((function.local_bytes()?, function.static_shared_bytes()?), (0, 0));
        assert!(function.blocks_per_multiprocessor(256, 0)? >= 4);
        vectors.stream.fill(&vectors.out, 0, vectors.out.bytes(), 0)?;
        let arguments = vectors.arguments(&vectors.a, &vectors.out);
        // SAFETY: three vectors of `n` values.
        unsafe { vectors.launch(&function).run(&vectors.stream, &arguments)? };
        assert!(vectors.holds(&vectors.out, 1)?, "{name}");
        // SAFETY: it is not launched.
        let short = unsafe { vectors.launch(&function).run(&vectors.stream, &[0u64; 3]) };
        let short = short.expect_err("four bytes are missing");
        assert!(matches!(short, CudaError::Arguments { found: 24, .. }), "{short}");
    }
    let function = card.function("vector_add", "vector_add")?;
    let arguments = vectors.arguments(&vectors.a, &vectors.out);
    // SAFETY: it is not launched.
    let wide = unsafe { Launch::new(&function).block(2048).run(&vectors.stream, &arguments) };
    let wide = wide.expect_err("a block has at most 1024 threads");
    assert!(matches!(&wide, CudaError::Launch { block: [2048, 1, 1], .. }), "{wide}");
    for (module, kernel) in [("vector_add", "vector_subtract"), ("none", "vector_add")] {
        let missing = card.function(module, kernel).expect_err("not in the binary");
        assert!(matches!(missing, CudaError::NoKernel { .. }), "{missing}");
    }
    // Neither refusal harms what follows.
    // SAFETY: three vectors of `n` values.
    unsafe {
        vectors
            .launch(&function)
            .cooperative(true)
            .block(256)
            .grid(8, 1, 1)
            .run(&vectors.stream, &arguments)?
    };
    vectors.stream.synchronize()
}

#[test]
fn shared_memory_beyond_48_kib_needs_to_be_allowed() -> Result {
    let Some(card) = card() else { return Ok(()) };
    let vectors = Vectors::new(&card, 1000)?;
    let function = card.function("vector_add", "vector_add_parameters")?;
    let arguments = vectors.arguments(&vectors.a, &vectors.out);
    let most = card.info().shared_memory;
    assert!(most >= 64 << 10, "{most}");
    function.allow_shared(most)?;
    // SAFETY: three vectors of `n` values.
    unsafe { vectors.launch(&function).shared(most as u32).run(&vectors.stream, &arguments)? };
    assert!(vectors.holds(&vectors.out, 1)?);
    assert!(function.allow_shared(most + 1).is_err());
    Ok(())
}

#[test]
fn graphs_replay_what_was_recorded() -> Result {
    let Some(card) = card() else { return Ok(()) };
    let vectors = Vectors::new(&card, 5000)?;
    let function = card.function("vector_add", "vector_add")?;
    let (there, back) =
        (vectors.arguments(&vectors.a, &vectors.out), vectors.arguments(&vectors.out, &vectors.a));
    const STEPS: usize = 20;
    for overlapping in [false, true] {
        vectors.stream.synchronize()?;
        let before = (vectors.read(&vectors.a)?[0] * 4.0) as usize;
        let mut graph = vectors.stream.capture(|| -> Result {
            for _ in 0..STEPS {
                for arguments in [&there, &back] {
                    // SAFETY: three vectors of `n` values, which outlive the graph.
                    unsafe {
                        vectors.launch(&function).overlapping(overlapping).run(&vectors.stream, arguments)?
                    };
                }
            }
            Ok(())
        })?;
        assert_eq!(graph.nodes(), 2 * STEPS);
        assert!(vectors.holds(&vectors.a, before)?, "recording does nothing");
        for _ in 0..3 {
            // SAFETY: as recorded.
            unsafe { graph.launch(&vectors.stream)? };
        }
        assert!(vectors.holds(&vectors.a, before + 3 * 2 * STEPS)?, "overlapping: {overlapping}");
    }
    // Waiting cannot be recorded; the stream works again afterwards.
    let failed = vectors.stream.capture(|| vectors.stream.synchronize());
    assert!(matches!(failed, Err(CudaError::Call { .. })), "{failed:?}");
    vectors.stream.synchronize()
}

#[test]
fn events_order_streams_and_take_the_time() -> Result {
    let Some(card) = card() else { return Ok(()) };
    let vectors = Vectors::new(&card, 1 << 20)?;
    let function = card.function("vector_add", "vector_add")?;
    let arguments = vectors.arguments(&vectors.a, &vectors.out);
    let (start, end) = (Event::timed(&card)?, Event::timed(&card)?);
    vectors.stream.record(&start)?;
    // SAFETY: three vectors of `n` values.
    unsafe { vectors.launch(&function).run(&vectors.stream, &arguments)? };
    vectors.stream.record(&end)?;
    let second = Stream::new(&card)?;
    second.wait(&end)?;
    let copied = Memory::new(&card, 4 << 20)?;
    second.copy((&copied, 0), (&vectors.out, 0), 4 << 20)?;
    second.synchronize()?;
    assert!(end.is_done()? && vectors.holds(&copied, 1)?);
    let seconds = start.seconds_until(&end)?.expect("drivers can say");
    assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
    assert_eq!(Event::new(&card)?.seconds_until(&end)?, None, "not timed");
    Ok(())
}

#[test]
fn a_refused_allocation_names_amounts_and_leaves_the_card_working() -> Result {
    let Some(card) = card() else { return Ok(()) };
    let (_, total) = card.free_and_total()?;
    let asked = total as usize + (1 << 30);
    let error = Memory::new(&card, asked).expect_err("more than there is");
    let CudaError::Memory(MemoryError::Card { asked: named, free, total: all, .. }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!((*named, *all), (asked as u64, total));
    assert!(*free <= total);
    assert_eq!(error.remedy(), Some(Remedy::LessOnCard));

    // Almost all memory is taken, as by another process; then the rest is too little.
    let mut taken = Vec::new();
    let mut step = 4 << 30;
    while step >= 1 << 20 {
        match Memory::new(&card, step) {
            Ok(memory) => taken.push(memory),
            Err(CudaError::Memory(_)) => step /= 2,
            Err(other) => return Err(other),
        }
    }
    let held: u64 = taken.iter().map(|memory| memory.bytes() as u64).sum();
    assert!(card.memory_use().current >= held && card.memory_use().peak >= held);
    let error = Memory::new(&card, 64 << 20).expect_err("all is taken");
    assert!(matches!(error, CudaError::Memory(MemoryError::Card { asked: 0x400_0000, .. })), "{error}");
    drop(taken);
    assert!(card.memory_use().peak >= held);
    let memory = Memory::new(&card, 64 << 20)?;
    let stream = Stream::new(&card)?;
    stream.fill(&memory, 0, memory.bytes(), 1)?;
    stream.synchronize()
}

#[test]
fn copies_between_cards() -> Result {
    let Some(first) = card() else { return Ok(()) };
    if Card::count()? < 2 {
        eprintln!("skipped: only one NVIDIA card");
        return Ok(());
    }
    let second = Card::open(1)?;
    let (here, there) = (Memory::new(&first, 1 << 22)?, Memory::new(&second, 1 << 22)?);
    let (stream, other) = (Stream::new(&first)?, Stream::new(&second)?);
    let bytes: Vec<u8> = (0..1 << 22).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // The first time without access from card to card, then with it where that is possible.
    for round in 0..2 {
        stream.upload(&here, 0, &bytes)?;
        other.fill(&there, 0, 1 << 22, 0)?;
        other.synchronize()?;
        stream.copy((&there, 64), (&here, 0), (1 << 22) - 64)?;
        let sent = Event::new(&first)?;
        stream.record(&sent)?;
        other.wait(&sent)?;
        let mut back = vec![0; 1 << 22];
        other.download(&mut back, &there, 0)?;
        assert_eq!(back[64..], bytes[..bytes.len() - 64], "round {round}");
        let direct = (first.enable_peer(&second)?, second.enable_peer(&first)?);
        assert_eq!(direct.0, direct.1);
        assert_eq!(first.enable_peer(&second)?, direct.0, "asked twice");
    }
    let wrong = stream.upload(&there, 0, &bytes[..4]).expect_err("memory of the other card");
    assert!(matches!(wrong, CudaError::OtherCard { .. }), "{wrong}");
    Ok(())
}

/// This test binary again, in a process of its own, with one test and one variable.
fn again(test: &str, variable: &str, value: &str) -> String {
    let program = std::env::current_exe().expect("a test has a path");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(variable, value);
    let output =
        command.env("QUERN_TEST_CHILD", "1").env_remove("QUERN_TEST_CUDA").output().expect("it starts");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

fn is_child() -> bool {
    std::env::var_os("QUERN_TEST_CHILD").is_some()
}

/// A kernel's fault ends the use of the card by the process, so this happens in one of its own.
#[test]
fn a_fault_is_reported_once_as_a_lost_card() -> Result {
    let Some(card) = card() else { return Ok(()) };
    if !is_child() {
        let text = again("a_fault_is_reported_once_as_a_lost_card", "UNUSED", "");
        assert!(text.contains("the fault was seen"), "{text}");
        return Ok(());
    }
    let vectors = Vectors::new(&card, 16)?;
    let mut graph = vectors.stream.capture(|| vectors.stream.fill(&vectors.out, 0, 64, 0))?;
    let function = card.function("vector_add", "vector_fault")?;
    // SAFETY: its fault is what is tested; it writes nothing.
    unsafe { Launch::new(&function).run(&vectors.stream, &vectors.out.pointer())? };
    let error = vectors.stream.synchronize().expect_err("an illegal address");
    let CudaError::Lost { code, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code.value, 700, "{error}");
    assert_eq!(error.remedy(), Some(Remedy::UseCpu));
    assert_eq!(card.lost(), Some(&error));
    assert_eq!(Memory::new(&card, 16).expect_err("lost"), error);
    assert_eq!(card.function("vector_add", "vector_add").expect_err("lost"), error);
    // SAFETY: nothing runs.
    assert_eq!(unsafe { graph.launch(&vectors.stream) }.expect_err("lost"), error);
    println!("{error}");
    drop((graph, vectors, function));
    println!("the fault was seen");
    Ok(())
}

#[test]
fn a_driver_that_may_use_no_card_says_so() -> Result {
    let name = "a_driver_that_may_use_no_card_says_so";
    if is_child() {
        let error = Card::open(0).expect_err("all cards are hidden");
        assert_eq!(error, CudaError::NoCard);
        assert_eq!(error.remedy(), Some(Remedy::UseCpu));
        println!("{error}; seen");
    } else if card().is_some() {
        assert!(again(name, "CUDA_VISIBLE_DEVICES", "").contains("finds no card; seen"));
    }
    Ok(())
}
