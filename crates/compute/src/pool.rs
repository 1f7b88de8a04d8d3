//! A fork-join thread pool for short regions.
//!
//! A token of a language model is some 150 parallel regions of 50 to 500 microseconds, so starting and
//! ending one must cost about a microsecond: workers spin for a moment after a region, then sleep.
//!
//! One word holds the state: `open (1 bit) | region number (31) | workers inside (32)`. A worker may enter
//! only while the region is open; the caller does its share, closes the region, and waits for those inside.
//! A worker that wakes late finds the region closed and delays no other thread.
//!
//! Each thread begins with a span of tasks of its own and takes them in order, so that neighbouring tasks read
//! memory sequentially: that is up to twice as fast as chunks of 32 KiB that threads take alternately. A thread
//! whose span is empty takes the back half of another's.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::simd::Level;

const OPEN: u64 = 1 << 63;
const REGION: u64 = 1 << 32;
const INSIDE: u64 = REGION - 1;

/// Tasks not yet begun, `end (32 bits) | first (32)`; empty where first = end. On a pair of cache lines of its
/// own.
#[repr(align(128))]
struct Span(AtomicU64);

/// How long an idle worker watches for the next region before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// Threads that run the tasks of a parallel region together with the caller, and the level of the instructions they
/// compute with.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    busy: AtomicBool,
    level: Level,
}

/// The region's body with its type erased: `call(data, task)`.
#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    call: unsafe fn(*const (), usize),
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    /// One for each thread, the caller's first.
    spans: Box<[Span]>,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the one caller that holds `Pool::busy`, while the region is closed and
// no worker is inside; it is read only by workers that entered an open region, which orders them after the
// write. The pointer it holds is to a `Sync` closure that outlives the region.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] included: `threads - 1` are started (fewer
    /// if the system refuses more). 0 counts as 1. Kernels compute at [`Level::detect`].
    pub fn new(threads: usize) -> Self {
        Self::with_level(threads, Level::detect())
    }

    /// As [`Pool::new`], at a given level, or the CPU's best if that is lower.
    pub fn with_level(threads: usize, level: Level) -> Self {
        unsafe fn nothing(_: *const (), _: usize) {}
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { data: std::ptr::null(), call: nothing }),
            spans: (0..threads.max(1)).map(|_| Span(AtomicU64::new(0))).collect(),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let workers = (1..threads)
            .map_while(|i| {
                let shared = shared.clone();
                let builder = std::thread::Builder::new().name(format!("quern-{i}"));
                builder.spawn(move || shared.work(i)).ok()
            })
            .collect();
        Self { shared, workers, busy: AtomicBool::new(false), level: level.here() }
    }

    /// Threads that take part, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The level that kernels compute at.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Runs `body(task)` once for every task in `0..tasks`, on all threads: each takes an equal span in order,
    /// then helps another to finish. Returns when all are done. With one thread, one task, or from inside
    /// another region, the tasks run here in order.
    ///
    /// # Panics
    /// If `body` panics, other threads end after the task they are in (or, rarely, a few more) and the first
    /// panic continues here. If there are 2^32 tasks or more.
    pub fn run(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        assert!(tasks <= u32::MAX as usize, "a parallel region of {tasks} tasks");
        if tasks <= 1 || self.workers.is_empty() || self.busy.swap(true, Ordering::Acquire) {
            return (0..tasks).for_each(body);
        }
        self.fork(tasks, &body);
        let panic = lock(&self.shared.panic).take();
        self.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs `body(thread, threads)` once for every thread number: work that is split in advance. One thread
    /// may serve two numbers if another is late, so bodies must not wait for each other.
    pub fn each(&self, body: impl Fn(usize, usize) + Sync) {
        let threads = self.threads();
        self.run(threads, |thread| body(thread, threads));
    }

    fn fork<F: Fn(usize) + Sync>(&self, tasks: usize, body: &F) {
        /// # Safety
        /// `data` points to a live `F`.
        unsafe fn call<F: Fn(usize)>(data: *const (), task: usize) {
            // SAFETY: guaranteed by the caller.
            unsafe { (*data.cast::<F>())(task) }
        }
        let shared = &*self.shared;
        let job = Job { data: std::ptr::from_ref(body).cast(), call: call::<F> };
        // SAFETY: `busy` is held here, and the last region was closed and left before `busy` was released.
        unsafe { *shared.job.get() = job };
        let threads = self.threads() as u64;
        for (i, span) in (0..threads).zip(&shared.spans) {
            let (first, end) = (tasks as u64 * i / threads, tasks as u64 * (i + 1) / threads);
            span.0.store(end << 32 | first, Ordering::Relaxed);
        }
        let region = shared.state.load(Ordering::Relaxed).wrapping_add(REGION) & !(OPEN | INSIDE);
        shared.state.store(region | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&shared.sleep));
            shared.wake.notify_all();
        }
        shared.take_tasks(0, job);
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins.is_multiple_of(1024) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a body, so the result has no information.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).field("level", &self.level).finish()
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        let mut last = 0;
        while let Some(region) = self.await_region(last) {
            last = region;
            if !self.enter(region) {
                continue;
            }
            // SAFETY: entered, so the region is open, its job written, and the caller waits for us.
            let job = unsafe { *self.job.get() };
            self.take_tasks(thread, job);
            self.state.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The next open region after `last`, or `None` when the pool ends.
    fn await_region(&self, last: u64) -> Option<u64> {
        let fresh = |state: u64| {
            let region = state & !(OPEN | INSIDE);
            (state & OPEN != 0 && region != last).then_some(region)
        };
        let mut began = None;
        loop {
            for _ in 0..64 {
                if let Some(region) = fresh(self.state.load(Ordering::Acquire)) {
                    return Some(region);
                }
                std::hint::spin_loop();
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if began.get_or_insert_with(Instant::now).elapsed() < SPIN {
                continue;
            }
            // Announce the sleep, then look again: a caller that opens a region after this look sees the
            // announcement (both sides are SeqCst) and wakes us.
            let mut guard = lock(&self.sleep);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while fresh(self.state.load(Ordering::SeqCst)).is_none() && !self.stop.load(Ordering::SeqCst) {
                guard = self.wake.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            began = None;
        }
    }

    fn enter(&self, region: u64) -> bool {
        let enter =
            |state: u64| (state & OPEN != 0 && state & !(OPEN | INSIDE) == region).then_some(state + 1);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_ok()
    }

    fn take_tasks(&self, thread: usize, job: Job) {
        let body = || {
            loop {
                while let Some(task) = self.spans[thread].first() {
                    // SAFETY: the closure outlives the region, and we are inside it.
                    unsafe { (job.call)(job.data, task) };
                }
                let others = (1..self.spans.len()).map(|i| &self.spans[(thread + i) % self.spans.len()]);
                let Some(span) = others.filter_map(Span::back_half).next() else { break };
                self.spans[thread].0.store(span, Ordering::Relaxed);
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            self.spans.iter().for_each(|span| span.0.store(0, Ordering::Relaxed));
            lock(&self.panic).get_or_insert(panic);
        }
    }
}

// A span's word always states the tasks not yet begun, whenever it is read: an exchange that succeeds against a
// word read long ago is still right. What tasks read and write is ordered by the region's state.
impl Span {
    /// Takes the first task.
    fn first(&self) -> Option<usize> {
        let rest = |span: u64| (span as u32 != (span >> 32) as u32).then(|| span + 1);
        let span = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok()?;
        Some(span as u32 as usize)
    }

    /// Takes the back half, the larger if they differ, as a word for another span.
    fn back_half(&self) -> Option<u64> {
        let parts = |span: u64| {
            let (first, end) = (span & u64::from(u32::MAX), span >> 32);
            (first != end).then(|| first + (end - first) / 2)
        };
        let rest = |span: u64| parts(span).map(|middle| middle << 32 | span & u64::from(u32::MAX));
        let span = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok()?;
        let middle = parts(span)?;
        Some(span >> 32 << 32 | middle)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for round in 0..300 {
                let tasks = round % 37;
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                if round % 100 == 0 {
                    std::thread::sleep(SPIN * 4); // let the workers fall asleep
                }
            }
        }
    }

    #[test]
    fn a_thread_without_tasks_helps_the_others() {
        let (pool, tasks) = (Pool::new(2), 100);
        for stuck in [0, 49, 50, 99] {
            let done = AtomicUsize::new(0);
            // One task ends after all others have: another thread must take the rest of its span.
            pool.run(tasks, |task| {
                let began = Instant::now();
                while task == stuck && done.load(Ordering::Relaxed) < tasks - 1 {
                    assert!(began.elapsed() < Duration::from_secs(100), "nobody helps");
                    std::thread::yield_now();
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), tasks);
        }
    }

    #[test]
    fn each_serves_every_thread_number() {
        let pool = Pool::new(3);
        let seen = Mutex::new(Vec::new());
        pool.each(|thread, threads| seen.lock().unwrap().push((thread, threads)));
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [(0, 3), (1, 3), (2, 3)]);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            let run = || pool.run(64, |task| assert_ne!(task, 13, "task thirteen"));
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert!(panic.downcast_ref::<String>().is_some_and(|s| s.contains("task thirteen")));
            let sum = AtomicUsize::new(0);
            pool.run(10, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn a_region_inside_a_region_runs_inline() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        pool.run(8, |outer| {
            pool.run(8, |inner| {
                sum.fetch_add(outer * 8 + inner, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 63 * 64 / 2);
    }
}
