//! Some hundred damaged inputs for every reader, drawn and shrunk by proptest, and the first of the runner's own.

#![allow(missing_docs)]

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use quern_faults::allocation::{ALLOWANCE, Counting};
use quern_faults::mutation::Mutation;
use quern_faults::reader::{Given, READERS, Reader};
use quern_faults::seed::{Place, Seed};
use quern_run::random::Random;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Inputs for each reader and each of the two ways.
const INPUTS: u32 = 60;

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let one = (any::<u64>(), 1usize..1 << 20)
        .prop_map(|(seed, length)| Mutation::random(&mut Random::new(seed), length));
    proptest::collection::vec(one, 1..6)
}

fn check(reader: &Reader, seed: &Seed, bytes: &[u8]) -> Result<(), String> {
    let Given { outcome, beyond } = reader.give(seed, bytes)?;
    match outcome {
        Err(_) => return Err("panic".to_owned()),
        Ok(Err(what)) if what.trim().is_empty() => return Err("an error without words".to_owned()),
        Ok(_) => {}
    }
    match beyond {
        beyond if beyond > ALLOWANCE => Err(format!("{} MiB beyond the file", beyond >> 20)),
        _ => Ok(()),
    }
}

/// One test, because memory is counted for the whole process.
#[test]
fn no_reader_panics_or_takes_memory() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    for reader in READERS {
        let work = tempfile::tempdir().unwrap();
        let place = Place { fixtures: fixtures.clone(), work: work.path().to_path_buf() };
        let seeds = (reader.seeds)(&place).unwrap();
        let mut sound = 0;
        for seed in &seeds {
            sound += usize::from((reader.exercise)(&seed.open).is_ok());
        }
        // Some seeds are refused for a reason that their folder's name says; most are sound.
        assert!(
            sound * 2 >= seeds.len(),
            "{}: only {sound} of {} inputs are sound",
            reader.name,
            seeds.len()
        );
        for case in 0..u64::from(INPUTS) {
            let (seed, bytes) = reader.input(&seeds, case);
            check(reader, seed, &bytes).unwrap_or_else(|e| panic!("{}, case {case}: {e}", reader.name));
        }
        let config = Config { cases: INPUTS, failure_persistence: None, ..Config::default() };
        let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let drawn = (0..seeds.len(), mutations());
        let result = TestRunner::new_with_rng(config, random).run(&drawn, |(at, mutations)| {
            let mut bytes = seeds[at].bytes.clone();
            mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
            check(reader, &seeds[at], &bytes).map_err(TestCaseError::fail)
        });
        result.unwrap_or_else(|e| panic!("{}: {e}", reader.name));
    }
}
