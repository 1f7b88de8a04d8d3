//! Modules of kernels, loaded when they are first used.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute_enum as Attribute, CUjit_option_enum as JitOption, CUmodule,
};

use super::card::Card;
use super::driver;
use super::error::{CudaError, CudaResult};
use super::image::{Entry, Image, best};
use super::images::IMAGES;

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
