//! The functions of NCCL and of CUDA's driver that are needed, from whatever versions the machine has.
//!
//! Types and signatures are those of `nccl.h` (2.14 and later) and `cuda.h`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use libloading::Library as Loaded;

use super::{NcclError, UniqueId};

pub(super) const SUCCESS: c_int = 0;
/// A call on a communicator that does not block goes on behind the program's back.
pub(super) const IN_PROGRESS: c_int = 7;
/// `CUDA_ERROR_NOT_READY`: an event has not happened yet.
pub(super) const NOT_READY: c_int = 600;
/// `ncclUint8`: messages are sent as bytes.
pub(super) const UINT8: c_int = 1;
/// `CU_STREAM_NON_BLOCKING`, `CU_EVENT_DISABLE_TIMING`.
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
pub(super) const EVENT_DISABLE_TIMING: c_uint = 2;

/// `ncclConfig_t` as of version 2.14. Later versions take their additions to be unset when they see this version in it.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

impl Config {
    pub fn non_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21400,
            blocking: 0,
        }
    }
}

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($function:ident = $symbol:literal ($($argument:ty),*);)* }) => {
        $(#[$doc])*
        pub(super) struct $name {
            $(pub $function: unsafe extern "C" fn($($argument),*) -> c_int,)*
            _library: Loaded,
        }

        impl $name {
            fn of(library: Loaded) -> Result<Self, libloading::Error> {
                // SAFETY: the signatures are those of the library's header.
                unsafe {
                    Ok(Self {
                        $($function: *library.get($symbol)?,)*
                        _library: library,
                    })
                }
            }
        }
    };
}

functions! {
    /// NCCL.
    Nccl {
        version = b"ncclGetVersion" (*mut c_int);
        unique_id = b"ncclGetUniqueId" (*mut UniqueId);
        init = b"ncclCommInitRankConfig" (*mut *mut c_void, c_int, UniqueId, c_int, *mut Config);
        async_error = b"ncclCommGetAsyncError" (*mut c_void, *mut c_int);
        send = b"ncclSend" (*const c_void, usize, c_int, c_int, *mut c_void, *mut c_void);
        recv = b"ncclRecv" (*mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void);
        finalize = b"ncclCommFinalize" (*mut c_void);
        destroy = b"ncclCommDestroy" (*mut c_void);
        abort = b"ncclCommAbort" (*mut c_void);
    }
}

functions! {
    /// CUDA's driver.
    Driver {
        init = b"cuInit" (c_uint);
        device = b"cuDeviceGet" (*mut c_int, c_int);
        retain = b"cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
        release = b"cuDevicePrimaryCtxRelease_v2" (c_int);
        use_context = b"cuCtxSetCurrent" (*mut c_void);
        stream = b"cuStreamCreate" (*mut *mut c_void, c_uint);
        end_stream = b"cuStreamDestroy_v2" (*mut c_void);
        event = b"cuEventCreate" (*mut *mut c_void, c_uint);
        record = b"cuEventRecord" (*mut c_void, *mut c_void);
        query = b"cuEventQuery" (*mut c_void);
        end_event = b"cuEventDestroy_v2" (*mut c_void);
    }
}

/// NCCL and CUDA's driver, loaded.
#[derive(Clone)]
pub struct Library {
    pub(super) nccl: Arc<Nccl>,
    pub(super) driver: Arc<Driver>,
    text: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Library {
    /// Loads both from where the system looks for libraries.
    ///
    /// # Errors
    ///
    /// [`NcclError::Library`] if one is missing, or is too old to have what is needed.
    pub fn load() -> Result<Self, NcclError> {
        let driver = load(
            "libcuda.so.1",
            &["libcuda.so.1", "libcuda.so"],
            Driver::of,
            "install NVIDIA's driver",
        )?;
        let mut text = None;
        let nccl = load(
            "libnccl.so.2",
            // The name with the version is there without the files for developers.
            &["libnccl.so.2", "libnccl.so"],
            |library| {
                // SAFETY: the signature is that of `nccl.h`.
                text = Some(unsafe { *library.get(b"ncclGetErrorString")? });
                Nccl::of(library)
            },
            "install NCCL 2.14 or later, and name its folder in LD_LIBRARY_PATH if the system does not know it",
        )?;
        // SAFETY: takes a number, and may be called any time.
        let started = unsafe { (driver.init)(0) };
        if started != SUCCESS {
            return Err(NcclError::Call {
                function: "cuInit",
                code: started,
                reason: "the driver finds no GPU".to_owned(),
            });
        }
        match text {
            Some(text) => Ok(Self {
                nccl: Arc::new(nccl),
                driver: Arc::new(driver),
                text,
            }),
            None => unreachable!("a library that was loaded has its functions"),
        }
    }

    /// NCCL's version, such as 2.32.3.
    ///
    /// # Errors
    ///
    /// [`NcclError::Call`].
    pub fn version(&self) -> Result<String, NcclError> {
        let mut version = 0;
        // SAFETY: it writes one number.
        let code = unsafe { (self.nccl.version)(&raw mut version) };
        self.nccl_done("ncclGetVersion", code)?;
        let [major, minor, patch] = [version / 10000, version / 100 % 100, version % 100];
        Ok(format!("{major}.{minor}.{patch}"))
    }

    /// A new id, made by rank 0.
    ///
    /// # Errors
    ///
    /// [`NcclError::Call`].
    pub fn unique_id(&self) -> Result<UniqueId, NcclError> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: it writes one id.
        let code = unsafe { (self.nccl.unique_id)(&raw mut id) };
        self.nccl_done("ncclGetUniqueId", code)?;
        Ok(id)
    }

    /// Whether a call of NCCL has succeeded; one that goes on is a success.
    pub(super) fn nccl_done(&self, function: &'static str, code: c_int) -> Result<(), NcclError> {
        if code == SUCCESS || code == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: it answers with a text that lives as long as the library.
        let text = unsafe { CStr::from_ptr((self.text)(code)) };
        Err(NcclError::Call {
            function,
            code,
            reason: text.to_string_lossy().into_owned(),
        })
    }
}

/// Whether a call of the driver has succeeded.
pub(super) fn driver_done(function: &'static str, code: c_int) -> Result<(), NcclError> {
    if code == SUCCESS {
        return Ok(());
    }
    Err(NcclError::Call {
        function,
        code,
        reason: "see CUresult in CUDA's documentation".to_owned(),
    })
}

fn load<T>(
    library: &'static str,
    names: &[&str],
    mut of: impl FnMut(Loaded) -> Result<T, libloading::Error>,
    remedy: &'static str,
) -> Result<T, NcclError> {
    let mut first = None;
    for name in names {
        // SAFETY: both libraries are made to be loaded by any program.
        match unsafe { Loaded::new(*name) }.and_then(&mut of) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                first = first.or(Some(reason.unwrap_or_else(|| error.to_string())));
            }
        }
    }
    Err(NcclError::Library {
        library,
        reason: first.unwrap_or_default(),
        remedy,
    })
}
