use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use super::{Job, Limits, Piece, pool, run};
use crate::safetensors::Writer;
use crate::{Checkpoint, ElementType, Error, Metadata, Progress, Result, TensorPlan};

/// A source of one tensor of bytes.
fn source(folder: &Path, data: &[u8]) -> Checkpoint {
    let path = folder.join("model.safetensors");
    let plan = TensorPlan { name: "t".into(), element_type: ElementType::U8, shape: vec![data.len()] };
    let mut writer = Writer::create(&path, &Metadata::new(), &[plan], false).unwrap();
    writer.write(data).unwrap();
    writer.finish().unwrap();
    Checkpoint::open(&path).unwrap()
}

/// Doubles the bytes of ranges of the source. Pieces of different tens may not be in one batch; what they share is
/// the ten.
struct Doubling<'a> {
    data: &'a [u8],
    names: Vec<String>,
    /// Pieces that cannot be made, by their first byte.
    broken: Vec<usize>,
    /// Bytes after which the output takes no more.
    room: usize,
    released: Mutex<Vec<Range<usize>>>,
}

impl<'a> Doubling<'a> {
    fn new(data: &'a [u8]) -> Self {
        let names = (0..100).map(|i| format!("tensor {i}")).collect();
        Self { data, names, broken: Vec::new(), room: usize::MAX, released: Mutex::default() }
    }

    /// Every third tensor is copied from the map.
    fn pieces(&self, size: usize) -> impl Iterator<Item = Piece<'a, Range<usize>>> {
        let data = self.data;
        (0..data.len()).step_by(size).enumerate().map(move |(i, at)| {
            let range = at..data.len().min(at + size);
            let tensor = i / 5;
            match tensor % 3 {
                2 => Piece::mapped(tensor, &data[range]),
                _ => Piece::made(tensor, 2 * range.len(), range.len(), range),
            }
        })
    }

    fn expected(&self, size: usize) -> Vec<u8> {
        let twice = |data: &[u8]| data.iter().flat_map(|&b| [b, !b]).collect::<Vec<u8>>();
        let chunks = self.data.chunks(size).enumerate();
        chunks.flat_map(|(i, data)| if i / 5 % 3 == 2 { data.to_vec() } else { twice(data) }).collect()
    }

    fn run(&self, source: &Checkpoint, threads: usize, made: usize, progress: &Counted) -> Result<Vec<u8>> {
        let pool = pool(threads, source.path()).unwrap();
        let limits = Limits { made, counted: 4 * made };
        run(self, source, self.pieces(7), Vec::new(), (&pool, limits), progress)
    }
}

impl Job for Doubling<'_> {
    type Work = Range<usize>;
    type Scratch = Vec<u8>;
    type Shared = Option<usize>;
    type Output = Vec<u8>;
    type Error = Error;

    fn name(&self, tensor: usize) -> &str {
        &self.names[tensor]
    }

    fn joins(&self, first: &Piece<'_, Range<usize>>, next: &Piece<'_, Range<usize>>) -> bool {
        first.tensor / 10 == next.tensor / 10
    }

    fn share(&self, first: &Piece<'_, Range<usize>>, shared: &mut Option<usize>) -> Result<()> {
        *shared = Some(first.tensor / 10);
        Ok(())
    }

    fn make(
        &self,
        tensor: usize,
        work: &Range<usize>,
        shared: &Option<usize>,
        scratch: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<()> {
        assert_eq!(*shared, Some(tensor / 10));
        if self.broken.contains(&work.start) {
            return Err(Error::refused("out", format!("byte {} is broken", work.start)));
        }
        scratch.clear();
        scratch.extend(self.data[work.clone()].iter().flat_map(|&b| [b, !b]));
        out.copy_from_slice(scratch);
        Ok(())
    }

    fn release(&self, _: usize, first: &Range<usize>, last: &Range<usize>) {
        self.released.lock().unwrap().push(first.start..last.end);
    }

    fn write(&self, output: &mut Vec<u8>, _: &Piece<'_, Range<usize>>, data: &[u8]) -> Result<()> {
        if output.len() + data.len() > self.room {
            return Err(Error::refused("out", "full"));
        }
        output.extend(data);
        Ok(())
    }
}

#[derive(Default)]
struct Counted {
    done: Mutex<u64>,
    steps: Mutex<Vec<String>>,
}

impl Progress for Counted {
    fn advance(&self, units: u64) {
        *self.done.lock().unwrap() += units;
    }

    fn step(&self, what: &str) {
        self.steps.lock().unwrap().push(what.to_owned());
    }
}

fn bytes() -> Vec<u8> {
    (0..1999u32).map(|i| ((i * i) >> 3) as u8).collect()
}

#[test]
fn neither_threads_nor_batches_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), &bytes());
    let data = source.data(&source.tensors()[0]);
    for (threads, made) in [(1, 1), (1, 1 << 20), (2, 64), (3, 14), (5, 1 << 20)] {
        let (job, progress) = (Doubling::new(data), Counted::default());
        let output = job.run(&source, threads, made, &progress).unwrap();
        assert!(output == job.expected(7), "{threads} {made}");
        assert_eq!(*progress.done.lock().unwrap(), data.len() as u64);
        let tensors = data.len().div_ceil(7).div_ceil(5);
        assert_eq!(*progress.steps.lock().unwrap(), job.names[..tensors]);
        let released: usize = job.released.lock().unwrap().iter().map(Range::len).sum();
        let made: usize = job.pieces(7).filter_map(|p| p.work().map(Range::len)).sum();
        assert_eq!(released, made, "what was made is given back, all of it once");
    }
}

#[test]
fn the_first_error_in_the_order_of_the_output_is_returned() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), &bytes());
    let data = source.data(&source.tensors()[0]);
    for (threads, made) in [(1, 64), (4, 64), (4, 1 << 20)] {
        let job = Doubling { broken: vec![7 * 180, 7 * 48, 7 * 47], ..Doubling::new(data) };
        let error = job.run(&source, threads, made, &Counted::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("out: byte {} is broken", 7 * 47));
    }
}

#[test]
fn an_output_that_takes_no_more_ends_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), &bytes());
    let data = source.data(&source.tensors()[0]);
    for room in [0, 100, 3000] {
        let job = Doubling { room, ..Doubling::new(data) };
        let error = job.run(&source, 2, 64, &Counted::default()).unwrap_err();
        assert_eq!(error.to_string(), "out: full");
    }
    let empty = Doubling::new(&[]);
    assert!(empty.run(&source, 2, 64, &Counted::default()).unwrap().is_empty());
}
