//! NVIDIA cards: which there are, and one opened for use.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use cudarc::driver::sys::{CUcontext, CUdevice_attribute_enum as Attribute};

use super::driver::{self, Driver};
use super::error::{CardName, CudaError, CudaResult, MemoryError, Version};
use super::module::Modules;

/// Oldest architecture that the kernels are compiled for (Turing).
pub const OLDEST_CAPABILITY: Version = Version { major: 7, minor: 5 };

/// What the driver says about a card.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CardInfo {
    /// The driver's number of the card.
    pub index: usize,
    /// The product's name.
    pub name: Arc<str>,
    /// Compute capability.
    pub capability: Version,
    /// Number of streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of the level-2 cache.
    pub l2_cache: u64,
    /// Most bytes of shared memory that a block can have.
    pub shared_memory: usize,
    /// CUDA version that the driver supports.
    pub driver: Version,
}

impl CardInfo {
    fn new(driver: &Driver, index: usize, device: c_int) -> CudaResult<Self> {
        let attribute = |attribute: Attribute| {
            let mut value = 0;
            // SAFETY: `value` is writable, `device` came from `cuDeviceGet`.
            let code = unsafe { (driver.cuDeviceGetAttribute)(&raw mut value, attribute as c_int, device) };
            driver.check(code, "cuDeviceGetAttribute").map(|()| value)
        };
        let mut name = [0u8; 256];
        // SAFETY: the buffer has the length given, and one byte for the end is left.
        let code = unsafe { (driver.cuDeviceGetName)(name.as_mut_ptr().cast(), 255, device) };
        driver.check(code, "cuDeviceGetName")?;
        let mut memory = 0;
        // SAFETY: `memory` is writable.
        let code = unsafe { (driver.cuDeviceTotalMem_v2)(&raw mut memory, device) };
        driver.check(code, "cuDeviceTotalMem")?;
        Ok(Self {
            index,
            name: CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into(),
            capability: Version {
                major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            },
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(0) as usize,
            memory: memory as u64,
            l2_cache: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.max(0) as u64,
            shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.max(0)
                as usize,
            driver: driver.version,
        })
    }

    /// Number and name.
    pub fn card_name(&self) -> CardName {
        CardName { index: self.index, name: self.name.clone() }
    }
}

/// All cards of this machine that the driver shows, also those that are too old to be opened.
///
/// # Errors
///
/// No driver, one that is too old, or no card.
pub fn cards() -> CudaResult<Vec<CardInfo>> {
    let driver = Driver::get()?;
    (0..Card::count()?).map(|index| CardInfo::new(driver, index, device(driver, index)?)).collect()
}

fn device(driver: &Driver, index: usize) -> CudaResult<c_int> {
    let mut device = 0;
    // SAFETY: `device` is writable.
    let code = unsafe { (driver.cuDeviceGet)(&raw mut device, index as c_int) };
    driver.check(code, "cuDeviceGet").map(|()| device)
}

/// Bytes that this process allocated on a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes allocated now.
    pub current: u64,
    /// Most bytes that were allocated at one time.
    pub peak: u64,
}

/// A card, opened for use by this process: its context, kernels and counts of memory. Clones are the same card.
#[derive(Clone)]
pub struct Card(Arc<Inner>);

/// What all clones share; also held by all memory, streams and kernels of the card.
struct Inner {
    driver: &'static Driver,
    device: c_int,
    context: CUcontext,
    /// Number of this context within the process; never given twice.
    id: u64,
    info: CardInfo,
    lost: OnceLock<CudaError>,
    current: AtomicU64,
    peak: AtomicU64,
    /// How often memory was freed.
    frees: AtomicU64,
    modules: Modules,
}

// SAFETY: the driver's contexts and functions may be used from all threads; a context is made current in each.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Card").field(&self.0.info).finish()
    }
}

impl PartialEq for Card {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Card {}

impl Card {
    /// How many cards the driver shows.
    ///
    /// # Errors
    ///
    /// No driver, or one that is too old, or no card.
    pub fn count() -> CudaResult<usize> {
        let driver = Driver::get()?;
        let mut count = 0;
        // SAFETY: `count` is writable.
        let code = unsafe { (driver.cuDeviceGetCount)(&raw mut count) };
        driver.check(code, "cuDeviceGetCount")?;
        if count > 0 { Ok(count as usize) } else { Err(CudaError::NoCard) }
    }

    /// Opens a card. The same card is given as long as any clone of it is left.
    ///
    /// # Errors
    ///
    /// No driver, too old a driver or card, no such card, or one that another process uses exclusively.
    pub fn open(index: usize) -> CudaResult<Self> {
        static OPEN: OnceLock<Mutex<HashMap<usize, Weak<Inner>>>> = OnceLock::new();
        let count = Self::count()?;
        if index >= count {
            return Err(CudaError::NoSuchCard { index, count });
        }
        let mut open = OPEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = open.get(&index).and_then(Weak::upgrade) {
            return Ok(Self(card));
        }
        let card = Self(Arc::new(Inner::new(index)?));
        card.enter()?;
        open.insert(index, Arc::downgrade(&card.0));
        Ok(card)
    }

    /// What the driver says about the card.
    pub fn info(&self) -> &CardInfo {
        &self.0.info
    }

    /// Number and name, for errors.
    pub fn card_name(&self) -> CardName {
        self.0.info.card_name()
    }

    /// Bytes that are free on the card now, other processes' use included, and bytes that it has.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn free_and_total(&self) -> CudaResult<(u64, u64)> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are writable; the context is current.
        let code = unsafe { (self.driver().cuMemGetInfo_v2)(&raw mut free, &raw mut total) };
        self.check(code, "cuMemGetInfo")?;
        Ok((free as u64, total as u64))
    }

    /// Bytes that this process has and had in [`Memory`](super::Memory) of this card.
    pub fn memory_use(&self) -> MemoryUse {
        MemoryUse {
            current: self.0.current.load(Ordering::Relaxed),
            peak: self.0.peak.load(Ordering::Relaxed),
        }
    }

    /// Lets the peak be one of before: what was allocated since is not counted.
    pub(super) fn set_peak(&self, peak: u64) {
        self.0.peak.store(peak.max(self.0.current.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// The error that ended the use of this card, if it is lost.
    pub fn lost(&self) -> Option<&CudaError> {
        self.0.lost.get()
    }

    /// Lets this card's copies and kernels reach the other card's memory directly; whether that is possible. Without it
    /// copies between them go through the host, which the driver does by itself.
    ///
    /// # Errors
    ///
    /// One of the cards is lost.
    pub fn enable_peer(&self, other: &Self) -> CudaResult<bool> {
        let mut possible = 0;
        // SAFETY: `possible` is writable, both devices came from the driver.
        let code = unsafe {
            (self.driver().cuDeviceCanAccessPeer)(&raw mut possible, self.0.device, other.0.device)
        };
        self.check(code, "cuDeviceCanAccessPeer")?;
        if possible == 0 || self == other {
            return Ok(self == other);
        }
        self.enter()?;
        // SAFETY: the other context lives as long as `other`; the driver forgets the pair when it is destroyed.
        match unsafe { (self.driver().cuCtxEnablePeerAccess)(other.0.context, 0) } {
            driver::PEER_ACCESS_ALREADY_ENABLED => Ok(true),
            code => self.check(code, "cuCtxEnablePeerAccess").map(|()| true),
        }
    }

    pub(super) fn driver(&self) -> &'static Driver {
        self.0.driver
    }

    pub(super) fn context(&self) -> CUcontext {
        self.0.context
    }

    pub(super) fn modules(&self) -> &Modules {
        &self.0.modules
    }

    /// Makes the card's context current in this thread, as most of the driver's functions need.
    pub(super) fn enter(&self) -> CudaResult<()> {
        if let Some(lost) = self.0.lost.get() {
            return Err(lost.clone());
        }
        thread_local!(static CURRENT: Cell<u64> = const { Cell::new(0) });
        if CURRENT.get() != self.0.id {
            // SAFETY: the context lives until the last clone of this card is dropped.
            let code = unsafe { (self.driver().cuCtxSetCurrent)(self.0.context) };
            self.check(code, "cuCtxSetCurrent")?;
            CURRENT.set(self.0.id);
        }
        Ok(())
    }

    /// An error for a failed call, or nothing; remembers when the card is lost.
    pub(super) fn check(&self, code: c_int, call: &'static str) -> CudaResult<()> {
        match code {
            0 => Ok(()),
            _ => Err(self.failed(code, call)),
        }
    }

    /// The error of a failed call.
    #[cold]
    pub(super) fn failed(&self, code: c_int, call: &'static str) -> CudaError {
        let code = self.driver().code(code);
        if driver::is_fatal(code.value) {
            let lost = || CudaError::Lost { card: self.card_name(), call, code };
            return self.0.lost.get_or_init(lost).clone();
        }
        CudaError::Call { call, code }
    }

    pub(super) fn count_allocated(&self, bytes: u64) {
        let now = self.0.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// How often memory of this card was freed: as long as it stays the same, addresses stay valid.
    pub(super) fn frees(&self) -> u64 {
        self.0.frees.load(Ordering::Relaxed)
    }

    pub(super) fn count_freed(&self, bytes: u64) {
        self.0.frees.fetch_add(1, Ordering::Relaxed);
        self.0.current.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// An error unless `other`, the card of `what`, is this card.
    pub(super) fn same(&self, other: &Self, what: &'static str) -> CudaResult<()> {
        if self == other {
            return Ok(());
        }
        Err(CudaError::OtherCard { what, found: other.card_name(), expected: self.card_name() })
    }
}

impl Inner {
    fn new(index: usize) -> CudaResult<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let driver = Driver::get()?;
        let device = device(driver, index)?;
        let info = CardInfo::new(driver, index, device)?;
        if info.capability < OLDEST_CAPABILITY {
            let (found, needed) = (info.capability, OLDEST_CAPABILITY);
            return Err(CudaError::CardTooOld { card: info.card_name(), found, needed });
        }
        let mut context = std::ptr::null_mut();
        // SAFETY: `context` is writable. The context is released when this value is dropped.
        match unsafe { (driver.cuDevicePrimaryCtxRetain)(&raw mut context, device) } {
            driver::DEVICE_UNAVAILABLE => {
                let mut mode = 0;
                let attribute = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE as c_int;
                // SAFETY: `mode` is writable.
                let code = unsafe { (driver.cuDeviceGetAttribute)(&raw mut mode, attribute, device) };
                // 3 is CU_COMPUTEMODE_EXCLUSIVE_PROCESS, 2 CU_COMPUTEMODE_PROHIBITED.
                let exclusive = code == 0 && mode == 3;
                return Err(CudaError::Unavailable { card: info.card_name(), exclusive });
            }
            driver::OUT_OF_MEMORY => return Err(MemoryError::Context { card: info.card_name() }.into()),
            code => driver.check(code, "cuDevicePrimaryCtxRetain")?,
        }
        Ok(Self {
            driver,
            device,
            context,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            info,
            lost: OnceLock::new(),
            current: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            modules: Modules::default(),
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Modules go with the context. A failure leaves nothing to do.
        // SAFETY: this process retained the context once for this value, and nothing of it is left.
        unsafe { (self.driver.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}
