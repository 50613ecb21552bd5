//! Tensors where NCCL reaches them: in an NVIDIA GPU's memory, at an address.
//!
//! Burn's kernels run on streams of their own, and the memory that it hands out may still be used by kernels that were queued before.
//! NCCL has another stream. So every tensor waits here until Burn's is empty, before its address is given away.

use std::ffi::c_void;

use asyncdiff_comm::Form;
use asyncdiff_comm::nccl::DeviceBuffer;
use burn::backend::{Cube, DispatchDevice};
use burn::tensor::{Device, Tensor};
use burn_cubecl::cubecl::cuda::CudaRuntime;
use burn_cubecl::cubecl::future::block_on;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl_runtime::runtime::Runtime;
use cubecl_runtime::server::ServerStorage;
use cubecl_runtime::storage::{ComputeStorage, ManagedResource};

use crate::exchange::{Buffer, dtype, element};

type Server = <CudaRuntime as Runtime>::Server;
type Resource = <<Server as ServerStorage>::Storage as ComputeStorage>::Resource;

/// The number that CUDA gives a device; `None` if it is no NVIDIA GPU of Burn's CUDA backend.
#[must_use]
pub fn index(device: &Device) -> Option<usize> {
    match device.as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Cuda(cuda)) => Some(cuda.index),
        _ => None,
    }
}

/// A tensor of Burn's CUDA backend, its elements row-major and without gaps, at an address.
pub struct GpuTensor {
    form: Form,
    /// Its elements in one row: memory for more dimensions may have gaps between the rows.
    row: Tensor<1>,
    /// What is at the address: the row's memory, or a copy without gaps. As long as it is held, nobody writes into it.
    _held: CubeTensor,
    memory: ManagedResource<Resource>,
}

impl GpuTensor {
    /// `row` as a tensor of a form, whose number of elements it has.
    ///
    /// # Panics
    ///
    /// If it is not on an NVIDIA GPU of Burn's CUDA backend, or something went wrong there, which Burn answers with a panic, too.
    fn at_an_address(form: Form, row: Tensor<1>) -> Self {
        let fused = row.clone().try_into_primitive::<Cube>();
        let fused = fused.expect("only tensors of Burn's CUDA backend are given to NCCL");
        let client = fused.client.clone();
        let held = into_contiguous(client.resolve_tensor_float::<CubeBackend>(fused));
        let memory = held.client.get_resource::<Server>(held.handle.clone());
        let memory = memory.expect("a tensor of the CUDA backend has memory there");
        block_on(held.client.sync()).expect("the GPU works");
        Self {
            form,
            row,
            _held: held,
            memory,
        }
    }
}

impl<const D: usize> Buffer<D> for GpuTensor {
    fn of(tensor: Tensor<D>) -> Self {
        let form = Form::new(tensor.dims(), element(tensor.dtype()));
        let elements = tensor.shape().num_elements();
        Self::at_an_address(form, tensor.reshape([elements]))
    }

    fn empty(form: &Form, device: &Device) -> Self {
        let elements: usize = form.shape.iter().product();
        let row = Tensor::empty([elements], (device, dtype(form.element)));
        Self::at_an_address(form.clone(), row)
    }

    fn into_tensor(self) -> Tensor<D> {
        let shape: [usize; D] = std::array::from_fn(|index| self.form.shape[index]);
        self.row.reshape(shape)
    }
}

// SAFETY: the memory is held, by the tensor and by the resource; the bytes were counted above; Burn's stream was waited for when the
// address was taken, and a row that nobody else has is not used by kernels that came later.
unsafe impl DeviceBuffer for GpuTensor {
    fn form(&self) -> Form {
        self.form.clone()
    }

    fn pointer(&mut self) -> *mut c_void {
        self.memory.resource().ptr as *mut c_void
    }
}
