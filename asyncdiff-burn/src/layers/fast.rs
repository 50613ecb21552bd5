//! Between Burn's tensors and the kernels' slices.

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

/// A tensor's memory in row-major order, if it is the CPU backend's. It is copied only if it is not in order.
#[cfg(feature = "flex")]
fn in_order<const D: usize>(tensor: Tensor<D>) -> Option<Primitive> {
    let tensor = tensor.try_into_primitive::<burn::backend::Flex>().ok()?;
    Some(match tensor.is_contiguous() {
        true => tensor,
        false => tensor.to_contiguous(),
    })
}

/// The numbers of a tensor, if the kernels can have them. They are copied only if they are not in order, or not of `f32`.
#[cfg(feature = "flex")]
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Option<Numbers> {
    in_order(tensor.cast(FloatDType::F32)).map(Numbers)
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
    cast(tensor, like.dtype().into())
}

/// The nearest numbers of another type.
#[cfg(feature = "flex")]
pub fn cast<const D: usize>(tensor: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    use asyncdiff_kernels::{Narrow, narrow, widen};
    use burn_std::{Bytes, Element};
    use half::{bf16, f16};

    fn wide<E: Narrow + Element>(tensor: &Primitive) -> Bytes {
        let numbers: &[E] = tensor
            .as_slice()
            .expect("made contiguous, and of this type");
        let mut out = super::room(numbers.len());
        widen(numbers, &mut out);
        super::room::bytes(out)
    }

    fn narrowed<E: Narrow + Element>(tensor: &Primitive) -> Bytes {
        let numbers: &[f32] = tensor.as_slice().expect("made contiguous, and of f32");
        let mut out = vec![E::zeroed(); numbers.len()];
        narrow(numbers, &mut out);
        Bytes::from_elems(out)
    }

    let convert: fn(&Primitive) -> Bytes = match (tensor.dtype(), dtype) {
        (DType::F16, FloatDType::F32) => wide::<f16>,
        (DType::BF16, FloatDType::F32) => wide::<bf16>,
        (DType::F32, FloatDType::F16) => narrowed::<f16>,
        (DType::F32, FloatDType::BF16) => narrowed::<bf16>,
        _ => return tensor.cast(dtype),
    };
    let (device, shape) = (tensor.device(), tensor.dims());
    if !is_for(&device) {
        return tensor.cast(dtype);
    }
    let tensor = in_order(tensor).expect("the device's tensors are the CPU backend's");
    let data = TensorData::from_bytes(convert(&tensor), shape, dtype.into());
    Tensor::from_data(data, (&device, dtype.into()))
}

/// The nearest numbers of another type.
#[cfg(not(feature = "flex"))]
pub fn cast<const D: usize>(tensor: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    tensor.cast(dtype)
}

/// What kernels wrote, `[batch, height, width, channels]`, as a feature map `[batch, channels, height, width]` like `like`.
pub fn to_map(numbers: Vec<f32>, shape: [usize; 4], like: &Tensor<4>) -> Tensor<4> {
    to_tensor(numbers, shape, like).permute([0, 3, 1, 2])
}
