//! NCCL's communicator of one rank, with a stream of its own.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use super::library::{
    Config, EVENT_DISABLE_TIMING, IN_PROGRESS, Library, NOT_READY, STREAM_NON_BLOCKING, SUCCESS,
    UINT8, driver_done,
};
use super::{Join, NcclApi, NcclError, UniqueId};

/// How long a call may go on that only hands work to the device.
const PATIENCE: Duration = Duration::from_secs(30);

/// One rank's communicator. It does not block: its calls are looked after until they are done, or time is over.
pub struct Communicator {
    library: Library,
    device: c_int,
    context: *mut c_void,
    stream: *mut c_void,
    comm: *mut c_void,
    aborted: bool,
}

// SAFETY: NCCL and the driver let any thread use their handles, one at a time.
unsafe impl Send for Communicator {}

/// A place in the stream: an event that happens when it is reached.
pub struct Event {
    library: Library,
    event: *mut c_void,
}

// SAFETY: as for the communicator.
unsafe impl Send for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event was made by the driver, and is not used any more. There is nothing to do about an error.
        unsafe { (self.library.driver.end_event)(self.event) };
    }
}

/// NCCL on one of the machine's GPUs.
pub struct Gpu {
    /// The library.
    pub library: Library,
    /// The GPU's number, as CUDA counts.
    pub index: usize,
}

impl Join for Gpu {
    type Api = Communicator;

    fn unique_id(&self) -> Result<UniqueId, NcclError> {
        self.library.unique_id()
    }

    fn join(
        &self,
        place: (usize, usize),
        id: &UniqueId,
        within: Duration,
    ) -> Result<Communicator, NcclError> {
        Communicator::join(&self.library, self.index, place, id, within)
    }
}

impl Communicator {
    /// Joins rank `rank` of `world_size`, on GPU number `device`; returns when all ranks have, or after `within`.
    ///
    /// # Errors
    ///
    /// [`NcclError`].
    pub fn join(
        library: &Library,
        device: usize,
        (rank, world_size): (usize, usize),
        id: &UniqueId,
        within: Duration,
    ) -> Result<Self, NcclError> {
        let driver = &library.driver;
        let mut joined = Self {
            library: library.clone(),
            device: 0,
            context: ptr::null_mut(),
            stream: ptr::null_mut(),
            comm: ptr::null_mut(),
            aborted: false,
        };
        // SAFETY: every call writes one handle, which lives in `joined`; the context is the one that all libraries share.
        unsafe {
            let code = (driver.device)(&raw mut joined.device, device as c_int);
            driver_done("cuDeviceGet", code)?;
            let code = (driver.retain)(&raw mut joined.context, joined.device);
            driver_done("cuDevicePrimaryCtxRetain", code)?;
            joined.use_context()?;
            let code = (driver.stream)(&raw mut joined.stream, STREAM_NON_BLOCKING);
            driver_done("cuStreamCreate", code)?;
            let mut config = Config::non_blocking();
            let code = (library.nccl.init)(
                &raw mut joined.comm,
                world_size as c_int,
                *id,
                rank as c_int,
                &raw mut config,
            );
            library.nccl_done("ncclCommInitRankConfig", code)?;
        }
        joined.settle("ncclCommInitRankConfig", within)?;
        Ok(joined)
    }

    /// Makes the device's context that of the calling thread.
    fn use_context(&self) -> Result<(), NcclError> {
        self.check_alive()?;
        // SAFETY: the context is held until the communicator is dropped.
        let code = unsafe { (self.library.driver.use_context)(self.context) };
        driver_done("cuCtxSetCurrent", code)
    }

    /// What is aborted is freed.
    fn check_alive(&self) -> Result<(), NcclError> {
        match self.aborted {
            true => Err(NcclError::Aborted),
            false => Ok(()),
        }
    }

    fn state(&self) -> Result<c_int, NcclError> {
        self.check_alive()?;
        let mut state = SUCCESS;
        // SAFETY: the communicator exists, and one number is written.
        let code = unsafe { (self.library.nccl.async_error)(self.comm, &raw mut state) };
        self.library.nccl_done("ncclCommGetAsyncError", code)?;
        Ok(state)
    }

    /// Waits until the last call is done: no other may follow before.
    fn settle(&mut self, function: &'static str, within: Duration) -> Result<(), NcclError> {
        let start = Instant::now();
        loop {
            match self.state()? {
                IN_PROGRESS if start.elapsed() < within => {
                    thread::sleep(Duration::from_micros(100));
                }
                IN_PROGRESS => return Err(NcclError::Deadline(within)),
                state => return self.library.nccl_done(function, state),
            }
        }
    }
}

impl NcclApi for Communicator {
    type Mark = Event;

    unsafe fn send(
        &mut self,
        to: usize,
        pointer: *const c_void,
        bytes: usize,
    ) -> Result<(), NcclError> {
        self.use_context()?;
        let send = self.library.nccl.send;
        // SAFETY: the caller's promise about the memory; the handles are this communicator's.
        let code = unsafe { send(pointer, bytes, UINT8, to as c_int, self.comm, self.stream) };
        self.library.nccl_done("ncclSend", code)?;
        self.settle("ncclSend", PATIENCE)
    }

    unsafe fn recv(
        &mut self,
        from: usize,
        pointer: *mut c_void,
        bytes: usize,
    ) -> Result<(), NcclError> {
        self.use_context()?;
        let recv = self.library.nccl.recv;
        // SAFETY: the caller's promise about the memory; the handles are this communicator's.
        let code = unsafe { recv(pointer, bytes, UINT8, from as c_int, self.comm, self.stream) };
        self.library.nccl_done("ncclRecv", code)?;
        self.settle("ncclRecv", PATIENCE)
    }

    fn mark(&mut self) -> Result<Event, NcclError> {
        self.use_context()?;
        let driver = &self.library.driver;
        let mut event = ptr::null_mut();
        // SAFETY: one handle is written, and then belongs to the mark.
        let code = unsafe { (driver.event)(&raw mut event, EVENT_DISABLE_TIMING) };
        driver_done("cuEventCreate", code)?;
        let mark = Event {
            library: self.library.clone(),
            event,
        };
        // SAFETY: both handles exist.
        let code = unsafe { (driver.record)(mark.event, self.stream) };
        driver_done("cuEventRecord", code)?;
        Ok(mark)
    }

    fn passed(&mut self, mark: &Event) -> Result<bool, NcclError> {
        // SAFETY: the event exists.
        match unsafe { (self.library.driver.query)(mark.event) } {
            NOT_READY => {
                let state = self.state()?;
                self.library.nccl_done("ncclCommGetAsyncError", state)?;
                Ok(false)
            }
            code => driver_done("cuEventQuery", code).map(|()| true),
        }
    }

    fn abort(&mut self) {
        if !self.aborted && !self.comm.is_null() {
            self.aborted = true;
            // SAFETY: the communicator exists, and is not used any more. There is nothing to do about an error.
            unsafe { (self.library.nccl.abort)(self.comm) };
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.aborted && !self.comm.is_null() {
            // SAFETY: the communicator exists; finalizing lets what is in the stream end.
            let code = unsafe { (self.library.nccl.finalize)(self.comm) };
            let ended = self
                .library
                .nccl_done("ncclCommFinalize", code)
                .and_then(|()| self.settle("ncclCommFinalize", PATIENCE));
            if ended.is_ok() {
                // SAFETY: it is finalized, and not used any more.
                unsafe { (self.library.nccl.destroy)(self.comm) };
            } else {
                self.abort();
            }
        }
        let driver = &self.library.driver;
        // SAFETY: the handles were made by the driver, each is given back once. There is nothing to do about errors.
        unsafe {
            if !self.stream.is_null() {
                (driver.end_stream)(self.stream);
            }
            if !self.context.is_null() {
                (driver.release)(self.device);
            }
        }
    }
}
