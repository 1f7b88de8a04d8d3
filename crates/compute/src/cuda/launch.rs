//! Launching kernels.

use std::ffi::{c_uint, c_void};

use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID_enum as Id, CUlaunchAttributeValue, CUlaunchConfig,
};

use super::error::{CudaError, CudaResult};
use super::module::Function;
use super::stream::Stream;

/// A launch to be made: how many blocks of how many threads, and how it follows the kernel before.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    function: &'a Function,
    grid: [u32; 3],
    block: u32,
    shared: u32,
    overlapping: bool,
    cooperative: bool,
}

impl<'a> Launch<'a> {
    /// One block of one thread, until said otherwise.
    pub fn new(function: &'a Function) -> Self {
        Self { function, grid: [1; 3], block: 1, shared: 0, overlapping: false, cooperative: false }
    }

    /// Number of blocks in x, y and z.
    #[must_use]
    pub fn grid(mut self, x: u32, y: u32, z: u32) -> Self {
        self.grid = [x, y, z];
        self
    }

    /// Threads of a block, in x.
    #[must_use]
    pub fn block(mut self, x: u32) -> Self {
        self.block = x;
        self
    }

    /// Bytes of dynamic shared memory; beyond 48 KiB, [`Function::allow_shared`] comes first.
    #[must_use]
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Programmatic dependent launch: the kernel may start before the one ahead of it in the stream has ended, and waits
    /// for it by `griddepcontrol.wait`. Without effect on kernels that do not wait, and before compute capability 9.0.
    #[must_use]
    pub fn overlapping(mut self, yes: bool) -> Self {
        let possible = self.function.entry().waits && self.function.card().info().capability.major >= 9;
        self.overlapping = yes && possible;
        self
    }

    /// All blocks run at the same time, and may wait for each other; more than the card holds are refused.
    #[must_use]
    pub fn cooperative(mut self, yes: bool) -> Self {
        self.cooperative = yes;
        self
    }

    /// Queues the launch. `arguments` is one `#[repr(C)]` struct: either the kernel's one parameter, passed by value, or
    /// all its parameters in order.
    ///
    /// # Errors
    ///
    /// A stream of another card, arguments of another size than the kernel's parameters, a launch that the driver
    /// refuses, or a lost card. Faults of the kernel show at a later call.
    ///
    /// # Safety
    ///
    /// The arguments are what the kernel expects: every pointer in them is to memory of the size that the kernel takes
    /// it for, on this card or one it has access to, which is not freed before the work is done, or replayed for the
    /// last time.
    pub unsafe fn run<A: Copy>(&self, stream: &Stream, arguments: &A) -> CudaResult<()> {
        let card = self.function.card();
        card.same(stream.card(), "a stream")?;
        let given = size_of::<A>();
        let mut bytes = self.function.entry().parameters;
        // A struct may be longer by what aligns it.
        if bytes > given || given - bytes >= align_of::<A>().max(1) {
            let kernel = self.function.name().to_owned();
            return Err(CudaError::Arguments { kernel, expected: bytes, found: given });
        }
        card.enter()?;
        let mut attributes = [attribute(Id::CU_LAUNCH_ATTRIBUTE_IGNORE, |_| {}); 2];
        let mut count = 0;
        let mut add = |value| {
            attributes[count] = value;
            count += 1;
        };
        if self.overlapping {
            add(attribute(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, |value| {
                value.programmaticStreamSerializationAllowed = 1;
            }));
        }
        if self.cooperative {
            add(attribute(Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, |value| value.cooperative = 1));
        }
        let config = CUlaunchConfig {
            gridDimX: self.grid[0],
            gridDimY: self.grid[1],
            gridDimZ: self.grid[2],
            blockDimX: self.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared,
            hStream: stream.raw(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as c_uint,
        };
        // CU_LAUNCH_PARAM_BUFFER_POINTER is 1, _BUFFER_SIZE 2, _END 0, as addresses.
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            std::ptr::from_ref(arguments).cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut bytes).cast(),
            std::ptr::null_mut(),
        ];
        // SAFETY: configuration and arguments live through the call, which copies them; the function and the stream
        // belong to the current context; the caller vouches for what the kernel does with the arguments.
        let code = unsafe {
            let launch = card.driver().cuLaunchKernelEx;
            launch(&raw const config, self.function.raw(), std::ptr::null_mut(), extra.as_mut_ptr())
        };
        if code == 0 {
            return Ok(());
        }
        Err(match card.failed(code, "cuLaunchKernelEx") {
            CudaError::Call { code, .. } => CudaError::Launch {
                kernel: self.function.name().to_owned(),
                grid: self.grid,
                block: [self.block, 1, 1],
                shared: self.shared,
                code,
            },
            lost => lost,
        })
    }
}

/// A launch attribute; what is not set is zero.
fn attribute(id: Id, set: impl FnOnce(&mut CUlaunchAttributeValue)) -> CUlaunchAttribute {
    let mut value = CUlaunchAttributeValue { pad: [0; 64] };
    set(&mut value);
    CUlaunchAttribute { id, pad: [0; 4], value }
}
