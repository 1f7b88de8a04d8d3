//! Kernels: machine code for some cards and PTX for all others, from this binary. PTX is compiled by the driver when a
//! module is first used.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::fmt;
use std::io::Read as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute_enum as Attribute, CUjit_option_enum as JitOption, CUmodule,
};

use super::card::Card;
use super::driver;
use super::error::{CudaError, CudaResult, Version};
use super::images::IMAGES;

/// What an image was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Compute capability without the point: 75, 80, 90.
    pub number: i32,
    /// Whether only cards of exactly this capability take it (`compute_90a`, `sm_90a`).
    pub exact: bool,
    /// Whether it is machine code, which cards of the same major version take; else PTX, which all later ones take.
    pub machine: bool,
}

impl Target {
    fn suits(self, capability: Version) -> bool {
        let number = 10 * capability.major + capability.minor;
        let same_major = self.number / 10 == capability.major;
        if self.exact {
            self.number == number
        } else {
            self.number <= number && (same_major || !self.machine)
        }
    }
}

/// The kernels of one module for one target.
pub(super) struct Image {
    pub module: &'static str,
    pub target: Target,
    pub kernels: &'static [Entry],
    /// LZMA stream of PTX or machine code.
    pub packed: &'static [u8],
}

/// A kernel of an image.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: &'static str,
    /// Bytes that its parameters take.
    pub parameters: usize,
    /// Whether it waits for the kernel before it (`griddepcontrol.wait`), and so may be started before that one has ended.
    pub waits: bool,
}

impl Image {
    /// What the driver is given: PTX ends with a zero byte, as it must.
    fn unpack(&self) -> std::io::Result<Vec<u8>> {
        let mut code = Vec::new();
        // In KiB: the window of 2 MiB that tools/build_kernels.py packs with, and what else is needed.
        lzma_rust2::LzmaReader::new_mem_limit(self.packed, 4096, None)?.read_to_end(&mut code)?;
        if !self.target.machine {
            code.push(0);
        }
        Ok(code)
    }
}

/// The image of a module that suits a card best: the newest that it takes, machine code before PTX.
fn best(images: &'static [Image], module: &str, capability: Version) -> Option<&'static Image> {
    images
        .iter()
        .filter(|image| image.module == module && image.target.suits(capability))
        .max_by_key(|image| (image.target.number, image.target.exact, image.target.machine))
}

/// Names of all modules in this binary, each once, in order.
pub fn module_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = IMAGES.iter().map(|image| image.module).collect();
    names.dedup();
    names
}

/// A module's place: filled once, while other modules may be compiled in other threads.
type Place = Arc<OnceLock<CudaResult<Module>>>;

/// The modules that a card uses.
#[derive(Default)]
pub(super) struct Modules(Mutex<HashMap<String, Place>>);

/// A loaded module and its kernels.
struct Module {
    raw: CUmodule,
    image: &'static Image,
    kernels: Mutex<HashMap<String, Arc<Kernel>>>,
}

// SAFETY: the driver's modules may be used from all threads.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel's handle and what is known of it.
struct Kernel {
    raw: CUfunction,
    entry: &'static Entry,
}

// SAFETY: the driver's functions may be used from all threads.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// A kernel on a card, ready to be launched. Clones are the same kernel.
#[derive(Clone)]
pub struct Function {
    card: Card,
    kernel: Arc<Kernel>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name()).field("card", &self.card).finish()
    }
}

impl Card {
    /// A kernel of a module, compiled for this card on the module's first use (the driver keeps the result in its cache
    /// on disk). Modules are compiled side by side if different threads ask for them.
    ///
    /// # Errors
    ///
    /// No such kernel; or the driver cannot compile the module, with its log; or the card is lost.
    pub fn function(&self, module: &str, kernel: &str) -> CudaResult<Function> {
        self.enter()?;
        let place = {
            let mut places = self.modules().0.lock().unwrap_or_else(PoisonError::into_inner);
            match places.get(module) {
                Some(place) => place.clone(),
                None => places.entry(module.to_owned()).or_default().clone(),
            }
        };
        let missing = || CudaError::NoKernel {
            module: module.to_owned(),
            kernel: kernel.to_owned(),
            capability: self.info().capability,
        };
        let loaded = place.get_or_init(|| {
            let image = best(IMAGES, module, self.info().capability).ok_or_else(missing)?;
            Module::load(self, image)
        });
        let loaded = loaded.as_ref().map_err(CudaError::clone)?;
        let mut kernels = loaded.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match kernels.get(kernel) {
            Some(found) => found.clone(),
            None => {
                let found = Arc::new(loaded.find(self, kernel)?.ok_or_else(missing)?);
                kernels.insert(kernel.to_owned(), found.clone());
                found
            }
        };
        Ok(Function { card: self.clone(), kernel: found })
    }
}

impl Module {
    /// Unpacks and loads an image.
    fn load(card: &Card, image: &'static Image) -> CudaResult<Self> {
        // All images are unpacked by a test; what is empty nonetheless would be refused by the driver.
        let code = image.unpack().unwrap_or_default();
        let mut log = vec![0u8; 8192];
        let mut options = [
            JitOption::CU_JIT_ERROR_LOG_BUFFER as c_uint,
            JitOption::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as c_uint,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
        let mut raw = std::ptr::null_mut();
        // SAFETY: PTX ends with a zero byte, machine code knows its length; options and values are two each, the log has the length given; the
        // context is current, as `function` made it.
        let answer = unsafe {
            (card.driver().cuModuleLoadDataEx)(
                &raw mut raw,
                code.as_ptr().cast(),
                options.len() as c_uint,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if answer == 0 {
            return Ok(Self { raw, image, kernels: Mutex::default() });
        }
        match card.failed(answer, "cuModuleLoadDataEx") {
            CudaError::Call { code, .. } if code.value != driver::OUT_OF_MEMORY => {
                let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]).into_owned();
                Err(CudaError::Module { module: image.module.to_owned(), card: card.card_name(), code, log })
            }
            other => Err(other),
        }
    }

    /// Looks a kernel up, and loads its code, so that a first launch within a captured graph loads nothing.
    fn find(&self, card: &Card, name: &str) -> CudaResult<Option<Kernel>> {
        let driver = card.driver();
        let Some(entry) = self.image.kernels.iter().find(|entry| entry.name == name) else { return Ok(None) };
        let Ok(text) = CString::new(name) else { return Ok(None) };
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is writable, the module is loaded, the name ends with a zero byte.
        let code = unsafe { (driver.cuModuleGetFunction)(&raw mut raw, self.raw, text.as_ptr()) };
        card.check(code, "cuModuleGetFunction")?;
        if let Some(load) = driver.cuFuncLoad {
            // SAFETY: the function was just found.
            card.check(unsafe { load(raw) }, "cuFuncLoad")?;
        }
        Ok(Some(Kernel { raw, entry }))
    }
}

impl Function {
    /// The kernel's entry point.
    pub fn name(&self) -> &'static str {
        self.kernel.entry.name
    }

    /// The card it was compiled for.
    pub fn card(&self) -> &Card {
        &self.card
    }

    pub(super) fn raw(&self) -> CUfunction {
        self.kernel.raw
    }

    pub(super) fn entry(&self) -> &'static Entry {
        self.kernel.entry
    }

    /// Registers that a thread takes.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn registers(&self) -> CudaResult<usize> {
        self.attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)
    }

    /// Bytes of local memory (spilled registers and arrays) that a thread takes.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn local_bytes(&self) -> CudaResult<usize> {
        self.attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
    }

    /// Bytes of shared memory that each block has without what a launch adds.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn static_shared_bytes(&self) -> CudaResult<usize> {
        self.attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
    }

    /// Most threads that a block can have.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn max_threads(&self) -> CudaResult<usize> {
        self.attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
    }

    fn attribute(&self, attribute: Attribute) -> CudaResult<usize> {
        self.card.enter()?;
        let mut value = 0;
        // SAFETY: `value` is writable, the function lives as long as its card.
        let code = unsafe {
            (self.card.driver().cuFuncGetAttribute)(&raw mut value, attribute as c_int, self.raw())
        };
        self.card.check(code, "cuFuncGetAttribute")?;
        Ok(value.max(0) as usize)
    }

    /// Allows launches with up to this many bytes of dynamic shared memory; needed beyond 48 KiB.
    ///
    /// # Errors
    ///
    /// More than a block can have ([`CardInfo::shared_memory`](super::CardInfo)), or a lost card.
    pub fn allow_shared(&self, bytes: usize) -> CudaResult<()> {
        self.card.enter()?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_int;
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        // SAFETY: the function lives as long as its card.
        let code = unsafe { (self.card.driver().cuFuncSetAttribute)(self.raw(), attribute, bytes) };
        self.card.check(code, "cuFuncSetAttribute")
    }

    /// How many blocks of so many threads, with so much dynamic shared memory, one multiprocessor holds at a time.
    ///
    /// # Errors
    ///
    /// The card is lost, or a block is too large.
    pub fn blocks_per_multiprocessor(&self, threads: usize, shared: usize) -> CudaResult<usize> {
        self.card.enter()?;
        let mut blocks = 0;
        let threads = c_int::try_from(threads).unwrap_or(c_int::MAX);
        let ask = self.card.driver().cuOccupancyMaxActiveBlocksPerMultiprocessor;
        // SAFETY: `blocks` is writable, the function lives as long as its card.
        let code = unsafe { ask(&raw mut blocks, self.raw(), threads, shared) };
        self.card.check(code, "cuOccupancyMaxActiveBlocksPerMultiprocessor")?;
        Ok(blocks.max(0) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_images_unpack_to_code_of_their_target() {
        assert!(!IMAGES.is_empty());
        for image in IMAGES {
            let Image { module, target, kernels, .. } = image;
            let code = image.unpack().expect(module);
            assert!(!kernels.is_empty(), "{module} has no kernel");
            if target.machine {
                assert!(code.starts_with(b"\x7fELF"), "{module}");
                continue;
            }
            let text = String::from_utf8(code).expect(module);
            let named = format!(".target sm_{}{}\n", target.number, if target.exact { "a" } else { "" });
            assert!(text.starts_with(".version 8.4\n"), "{module}: PTX newer than drivers of CUDA 12.4 take");
            assert!(text.contains(&named), "{module}: {named}");
            assert_eq!(text.find('\0'), Some(text.len() - 1), "{module}");
            for Entry { name, .. } in *kernels {
                assert!(text.contains(&format!(".entry {name}(\n")), "{module}: {name}");
            }
            assert_eq!(text.matches(".entry ").count(), kernels.len(), "{module}");
        }
        assert!(
            IMAGES.is_sorted_by_key(|image| (image.module, image.target.number)),
            "in order of their names"
        );
    }

    #[test]
    fn machine_code_is_never_all_that_there_is() {
        for image in IMAGES.iter().filter(|image| image.target.machine && !image.target.exact) {
            let ptx = |other: &&Image| other.module == image.module && !other.target.machine;
            assert!(
                IMAGES.iter().any(|other| ptx(&other)),
                "{} runs on one generation of cards",
                image.module
            );
        }
    }

    #[test]
    fn the_newest_target_that_a_card_takes_is_chosen() {
        const fn of(number: i32, exact: bool, machine: bool) -> Image {
            Image { module: "m", target: Target { number, exact, machine }, kernels: &[], packed: &[] }
        }
        static ALL: [Image; 6] = [
            of(75, false, false),
            of(80, false, false),
            of(80, false, true),
            of(90, false, false),
            of(90, false, true),
            of(90, true, true),
        ];
        let chosen = |major, minor| {
            let target = best(&ALL, "m", Version { major, minor })?.target;
            Some((target.number, target.exact, target.machine))
        };
        assert_eq!(chosen(7, 0), None);
        assert_eq!(chosen(7, 5), Some((75, false, false)));
        assert_eq!(chosen(8, 9), Some((80, false, true)));
        assert_eq!(chosen(9, 0), Some((90, true, true)));
        assert_eq!(chosen(9, 3), Some((90, false, true)));
        assert_eq!(chosen(12, 0), Some((90, false, false)));
        assert!(best(&ALL, "n", Version { major: 9, minor: 0 }).is_none());
    }
}
