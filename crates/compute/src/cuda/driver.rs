//! The functions of the NVIDIA driver that quern calls, looked up once in the library found at run time.
//!
//! cudarc gives the types and finds the library. Its own wrappers are not called, for two reasons: they panic where a
//! driver lacks a symbol, and they return error codes as a Rust enum of one CUDA version, so that a code of a newer
//! driver would be undefined behaviour. Here a code is an integer, and a missing symbol is an error.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    self, CUcontext, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUstream,
};

use super::error::{Code, CudaError, Version};

/// Oldest driver that works: kernels are PTX of NVRTC 12.4.
pub(super) const OLDEST: Version = Version { major: 12, minor: 4 };

/// The table of functions, from their names and arguments.
macro_rules! table {
    (required { $($name:ident($($argument:ty),*);)* } optional { $($extra:ident($($of:ty),*);)* }) => {
        /// Entry points of the driver's library, by the names under which it exports them.
        #[allow(non_snake_case)]
        pub(super) struct Driver {
            /// What `cuDriverGetVersion` answered.
            pub version: Version,
            $(pub $name: unsafe extern "system" fn($($argument),*) -> c_int,)*
            $(pub $extra: Option<unsafe extern "system" fn($($of),*) -> c_int>,)*
        }

        impl Driver {
            /// Looks all functions up.
            ///
            /// # Safety
            ///
            /// `sys::is_culib_present` has answered yes.
            unsafe fn look_up(version: Version) -> Option<Self> {
                // SAFETY: the caller saw that the library can be loaded.
                let library = unsafe { sys::culib() };
                Some(Self {
                    version,
                    // SAFETY: the arguments in the table are those of the driver's documentation for this symbol.
                    $($name: unsafe { *library.get(concat!(stringify!($name), "\0").as_bytes()).ok()? },)*
                    // SAFETY: as above.
                    $($extra: unsafe { library.get(concat!(stringify!($extra), "\0").as_bytes()).ok().map(|f| *f) },)*
                })
            }
        }
    };
}

table! {
    required {
        cuInit(c_uint);
        cuGetErrorName(c_int, *mut *const c_char);
        cuGetErrorString(c_int, *mut *const c_char);
        cuDeviceGetCount(*mut c_int);
        cuDeviceGet(*mut c_int, c_int);
        cuDeviceGetName(*mut c_char, c_int, c_int);
        cuDeviceGetAttribute(*mut c_int, c_int, c_int);
        cuDeviceTotalMem_v2(*mut usize, c_int);
        cuDeviceCanAccessPeer(*mut c_int, c_int, c_int);
        cuDevicePrimaryCtxRetain(*mut CUcontext, c_int);
        cuDevicePrimaryCtxRelease_v2(c_int);
        cuCtxSetCurrent(CUcontext);
        cuCtxEnablePeerAccess(CUcontext, c_uint);
        cuMemGetInfo_v2(*mut usize, *mut usize);
        cuMemAlloc_v2(*mut CUdeviceptr, usize);
        cuMemFree_v2(CUdeviceptr);
        cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
        cuMemFreeHost(*mut c_void);
        cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
        cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
        cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
        cuMemcpyPeerAsync(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, usize, CUstream);
        cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
        cuStreamCreate(*mut CUstream, c_uint);
        cuStreamDestroy_v2(CUstream);
        cuStreamSynchronize(CUstream);
        cuStreamQuery(CUstream);
        cuStreamWaitEvent(CUstream, CUevent, c_uint);
        cuStreamBeginCapture_v2(CUstream, c_uint);
        cuStreamEndCapture(CUstream, *mut CUgraph);
        cuEventCreate(*mut CUevent, c_uint);
        cuEventDestroy_v2(CUevent);
        cuEventRecord(CUevent, CUstream);
        cuEventSynchronize(CUevent);
        cuEventQuery(CUevent);
        cuModuleLoadDataEx(*mut CUmodule, *const c_void, c_uint, *mut c_uint, *mut *mut c_void);
        cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
        cuFuncGetAttribute(*mut c_int, c_int, CUfunction);
        cuFuncSetAttribute(CUfunction, c_int, c_int);
        cuOccupancyMaxActiveBlocksPerMultiprocessor(*mut c_int, CUfunction, c_int, usize);
        cuLaunchKernelEx(*const sys::CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void);
        cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
        cuGraphGetNodes(CUgraph, *mut sys::CUgraphNode, *mut usize);
        cuGraphLaunch(CUgraphExec, CUstream);
        cuGraphExecDestroy(CUgraphExec);
        cuGraphDestroy(CUgraph);
    }
    optional {
        cuFuncLoad(CUfunction);
        cuEventElapsedTime(*mut f32, CUevent, CUevent);
        cuEventElapsedTime_v2(*mut f32, CUevent, CUevent);
    }
}

impl Driver {
    /// The driver of this machine: loaded, initialised and new enough.
    pub(super) fn get() -> Result<&'static Self, CudaError> {
        static DRIVER: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
        DRIVER.get_or_init(Self::load).as_ref().map_err(CudaError::clone)
    }

    fn load() -> Result<Self, CudaError> {
        // SAFETY: loading NVIDIA's library runs its initialisers, which have no preconditions.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        // The version comes first, by itself: an old driver may lack some of the functions above.
        // SAFETY: the library is present, as was just found.
        let library = unsafe { sys::culib() };
        // SAFETY: the documented signature of this symbol, which every driver has.
        let symbol =
            unsafe { library.get::<unsafe extern "system" fn(*mut c_int) -> c_int>(b"cuDriverGetVersion\0") };
        let mut number = 0;
        if let Ok(function) = symbol {
            // SAFETY: `number` is writable; the function may be called before `cuInit`.
            unsafe { function(&raw mut number) };
        }
        let version = Version { major: number / 1000, minor: number % 1000 / 10 };
        if version < OLDEST {
            return Err(CudaError::DriverTooOld { found: version, needed: OLDEST });
        }
        // SAFETY: the library is present.
        let driver = unsafe { Self::look_up(version) }
            .ok_or(CudaError::DriverTooOld { found: version, needed: OLDEST })?;
        // SAFETY: no preconditions.
        match unsafe { (driver.cuInit)(0) } {
            0 => Ok(driver),
            NO_DEVICE => Err(CudaError::NoCard),
            STUB_LIBRARY => Err(CudaError::NoDriver),
            code => Err(CudaError::Call { call: "cuInit", code: driver.code(code) }),
        }
    }

    /// A code with its name and meaning.
    pub(super) fn code(&self, value: c_int) -> Code {
        let text = |function: unsafe extern "system" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text: *const c_char = std::ptr::null();
            // SAFETY: `text` is writable; the driver points it at a static string, or leaves or sets it null.
            if unsafe { function(value, &raw mut text) } != 0 || text.is_null() {
                return "";
            }
            // SAFETY: a string that ends with a zero byte, in the library, which is never unloaded.
            unsafe { CStr::from_ptr::<'static>(text) }.to_str().unwrap_or_default()
        };
        Code { value, name: text(self.cuGetErrorName), meaning: text(self.cuGetErrorString) }
    }

    /// An error for a failed call, or nothing.
    pub(super) fn check(&self, value: c_int, call: &'static str) -> Result<(), CudaError> {
        match value {
            0 => Ok(()),
            _ => Err(CudaError::Call { call, code: self.code(value) }),
        }
    }
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub(super) const OUT_OF_MEMORY: c_int = 2;
/// `CUDA_ERROR_STUB_LIBRARY`: a toolkit's stand-in for the driver's library was loaded.
pub(super) const STUB_LIBRARY: c_int = 34;
/// `CUDA_ERROR_DEVICE_UNAVAILABLE`: another process uses the card exclusively, or it admits none.
pub(super) const DEVICE_UNAVAILABLE: c_int = 46;
/// `CUDA_ERROR_NO_DEVICE`.
pub(super) const NO_DEVICE: c_int = 100;
/// `CUDA_ERROR_NOT_READY`: not an error, work is still going on.
pub(super) const NOT_READY: c_int = 600;
/// `CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED`.
pub(super) const PEER_ACCESS_ALREADY_ENABLED: c_int = 704;

/// Whether after this code every later call of the context fails: a fault of a kernel or of the card itself.
pub(super) fn is_fatal(code: c_int) -> bool {
    // Uncorrectable memory or NVLink errors and their containment; addresses, time limit, destroyed context, assertion;
    // hardware stack to launch failure; leaked tensor memory; unknown.
    matches!(code, 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999)
}
