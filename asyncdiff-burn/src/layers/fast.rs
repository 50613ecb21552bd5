//! Between Burn's tensors and the kernels' slices.

use asyncdiff_kernels::Storage;
#[cfg(feature = "flex")]
use burn::tensor::DType;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

/// Whether tensors on a device can be given to the kernels.
#[cfg(feature = "flex")]
pub fn is_for(device: &Device) -> bool {
    *device == Device::flex()
}

/// Whether tensors on a device can be given to the kernels.
#[cfg(not(feature = "flex"))]
pub fn is_for(_: &Device) -> bool {
    false
}

#[cfg(feature = "flex")]
type Primitive = burn::backend::tensor::FloatTensor<burn::backend::Flex>;

/// The numbers of a tensor in row-major order.
pub struct Numbers(#[cfg(feature = "flex")] Primitive);

impl Numbers {
    #[cfg(feature = "flex")]
    pub fn as_slice(&self) -> &[f32] {
        self.0.as_slice().expect("made contiguous, and of f32")
    }

    #[cfg(not(feature = "flex"))]
    pub fn as_slice(&self) -> &[f32] {
        unreachable!("there are none without the backend")
    }
}

/// The numbers of a tensor, if the kernels can have them. They are copied only if they are not in order, or not of `f32`.
#[cfg(feature = "flex")]
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Option<Numbers> {
    let tensor = tensor
        .cast(FloatDType::F32)
        .try_into_primitive::<burn::backend::Flex>()
        .ok()?;
    Some(Numbers(match tensor.is_contiguous() {
        true => tensor,
        false => tensor.to_contiguous(),
    }))
}

/// The numbers of a tensor, if the kernels can have them.
#[cfg(not(feature = "flex"))]
pub fn numbers<const D: usize>(_: Tensor<D>) -> Option<Numbers> {
    None
}

/// The numbers of a feature map `[batch, channels, height, width]` with its channels side by side.
pub fn map(map: Tensor<4>) -> Option<Numbers> {
    numbers(map.permute([0, 2, 3, 1]))
}

/// What kernels wrote, as a tensor like `like`.
pub fn to_tensor<const D: usize, const L: usize>(
    numbers: Vec<f32>,
    shape: [usize; D],
    like: &Tensor<L>,
) -> Tensor<D> {
    #[cfg(feature = "flex")]
    let data = TensorData::from_bytes(super::room::bytes(numbers), shape, DType::F32);
    #[cfg(not(feature = "flex"))]
    let data = TensorData::new(numbers, shape);
    let tensor = Tensor::from_data(data, (&like.device(), FloatDType::F32.into()));
    match like.dtype().is_float() && like.dtype() == burn::tensor::DType::F32 {
        true => tensor,
        false => tensor.cast(like.dtype()),
    }
}

/// What kernels wrote, `[batch, height, width, channels]`, as a feature map `[batch, channels, height, width]` like `like`.
pub fn to_map(numbers: Vec<f32>, shape: [usize; 4], like: &Tensor<4>) -> Tensor<4> {
    to_tensor(numbers, shape, like).permute([0, 3, 1, 2])
}

/// How weights that a layer makes of a file's are held, if it computes in `dtype`.
pub fn storage(dtype: FloatDType) -> Storage {
    match dtype {
        FloatDType::F16 => Storage::F16,
        FloatDType::BF16 => Storage::Bf16Pairs,
        _ => Storage::F32,
    }
}
