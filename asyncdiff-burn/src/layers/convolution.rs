//! Convolutions.

use asyncdiff_kernels::{Finish, Packed, Shift, Square, Window, Winograd, convolution, winograd};
use burn::module::Param;
use burn::nn;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2dConfig;
use burn::tensor::Tensor;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, PadMode};

use super::fast;
use super::linear::numbers;
use super::room::room;
use crate::weights::{Loader, WeightError};

/// `torch.nn.Conv2d`, of feature maps `[batch, channels, height, width]`.
#[derive(Debug)]
pub struct Conv2d {
    form: Form,
    shape: Shape,
}

#[derive(Debug)]
enum Form {
    Packed(Packed),
    Winograd(Winograd),
    Plain(nn::conv::Conv2d),
}

/// `[height, width]` of everything but the channels.
#[derive(Clone, Copy, Debug)]
struct Shape {
    channels: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    /// Zeros above and to the left.
    before: [usize; 2],
    /// Zeros below and to the right.
    after: [usize; 2],
}

/// What is done beside the convolution itself.
#[derive(Default)]
struct Extra {
    enlarged: Option<[usize; 2]>,
    shift: Option<Tensor<2>>,
    residual: Option<Tensor<4>>,
}

impl Conv2d {
    /// A square kernel with a bias: `weight` of `[output, input, kernel, kernel]`, zero padding on all sides.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn load(
        loader: &Loader<'_>,
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self, WeightError> {
        let shape = Shape {
            channels,
            kernel: [kernel; 2],
            stride,
            before: [padding; 2],
            after: [padding; 2],
        };
        let [input, output] = channels;
        Self::shaped(loader, shape, [output, input, kernel, kernel], true)
    }

    /// The same with a kernel of 3x3 that halves a map, whose padding is below and to the right only.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn halving(loader: &Loader<'_>, channels: [usize; 2]) -> Result<Self, WeightError> {
        let shape = Shape {
            channels,
            kernel: [3; 2],
            stride: 2,
            before: [0; 2],
            after: [1; 2],
        };
        let [input, output] = channels;
        Self::shaped(loader, shape, [output, input, 3, 3], true)
    }

    /// `torch.nn.Conv3d` with a kernel of `[kernel, 1, 1]`, a bias, and as many frames out as in: it looks along time only, so
    /// it is the two-dimensional convolution over `[batch, channels, frames, positions]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn over_frames(
        loader: &Loader<'_>,
        channels: [usize; 2],
        kernel: usize,
    ) -> Result<Self, WeightError> {
        let shape = Shape {
            channels,
            kernel: [kernel, 1],
            stride: 1,
            before: [kernel / 2, 0],
            after: [kernel / 2, 0],
        };
        let [input, output] = channels;
        Self::shaped(loader, shape, [output, input, kernel, 1, 1], true)
    }

    /// Without a bias, with a kernel and a stride of `size`: what cuts a picture into patches.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn patches(
        loader: &Loader<'_>,
        channels: [usize; 2],
        size: usize,
    ) -> Result<Self, WeightError> {
        let shape = Shape {
            channels,
            kernel: [size; 2],
            stride: size,
            before: [0; 2],
            after: [0; 2],
        };
        let [input, output] = channels;
        Self::shaped(loader, shape, [output, input, size, size], false)
    }

    fn shaped<const D: usize>(
        loader: &Loader<'_>,
        shape: Shape,
        stored: [usize; D],
        bias: bool,
    ) -> Result<Self, WeightError> {
        let [input, output] = shape.channels;
        let [height, width] = shape.kernel;
        let taps = height * width;
        let form = if loader.wants_kernels() {
            let weight = loader.values("weight", stored)?;
            let bias = bias.then(|| loader.values("bias", [output])).transpose()?;
            let storage = loader.storage();
            let bias = bias.as_deref();
            let plain_window = shape.kernel == [3, 3] && shape.stride == 1;
            match Square::that_pays(storage, shape.channels, loader.pixels())
                .filter(|_| plain_window)
            {
                Some(square) => Form::Winograd(Winograd::new(
                    square,
                    storage,
                    [output, input],
                    bias,
                    &weight,
                )),
                None => {
                    let storage = weight.storage(loader.storage());
                    Form::Packed(Packed::new(storage, [output, taps, input], bias, &weight))
                }
            }
        } else {
            let ([top, left], [bottom, right]) = (shape.before, shape.after);
            // Burn pads both ends alike; what is beyond is padded by hand.
            let symmetric = (top, left) == (bottom, right);
            let padding = if symmetric { [top, left] } else { [0, 0] };
            let config = Conv2dConfig::new(shape.channels, shape.kernel)
                .with_stride([shape.stride; 2])
                .with_bias(false)
                .with_padding(PaddingConfig2d::Explicit(
                    padding[0], padding[1], padding[0], padding[1],
                ));
            let mut layer = config.init(loader.device());
            let weight = loader.tensor("weight", stored)?;
            layer.weight = Param::from_tensor(weight.reshape([output, input, height, width]));
            let bias = bias.then(|| loader.tensor("bias", [output])).transpose()?;
            layer.bias = bias.map(Param::from_tensor);
            Form::Plain(layer)
        };
        Ok(Self { form, shape })
    }

    /// The convolution of a map.
    #[must_use]
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, Extra::default())
    }

    /// The convolution of a map enlarged to `size` (`[height, width]`), each pixel standing for its nearest.
    #[must_use]
    pub fn forward_enlarged(&self, x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        let enlarged = Some(size);
        self.run(
            x,
            Extra {
                enlarged,
                ..Default::default()
            },
        )
    }

    /// The same plus a `shift` for each channel: a row of them for all, for each sample, or for each line of each sample.
    #[must_use]
    pub fn forward_shifted(&self, x: Tensor<4>, shift: Option<Tensor<2>>) -> Tensor<4> {
        self.run(
            x,
            Extra {
                shift,
                ..Default::default()
            },
        )
    }

    /// The same added to a `residual` of its shape.
    #[must_use]
    pub fn forward_onto(&self, x: Tensor<4>, residual: Tensor<4>) -> Tensor<4> {
        let residual = Some(residual);
        self.run(
            x,
            Extra {
                residual,
                ..Default::default()
            },
        )
    }

    fn run(&self, x: Tensor<4>, extra: Extra) -> Tensor<4> {
        match &self.form {
            Form::Packed(weights) => self.run_kernel(&x, extra, |x, window, finish, out| {
                convolution(x, window, weights, finish, out);
            }),
            Form::Winograd(weights) => self.run_kernel(&x, extra, |x, window, finish, out| {
                winograd(x, window, weights, finish, out);
            }),
            Form::Plain(layer) => self.run_plain(layer, x, extra),
        }
    }

    fn run_kernel(
        &self,
        x: &Tensor<4>,
        extra: Extra,
        compute: impl Fn(&[f32], Window, &Finish<'_>, &mut [f32]),
    ) -> Tensor<4> {
        let Shape {
            kernel,
            stride,
            before,
            after,
            channels: [_, channels],
        } = self.shape;
        let [batch, _, height, width] = x.dims();
        let [tall, wide] = extra.enlarged.unwrap_or([height, width]);
        let output = [
            (tall + before[0] + after[0] - kernel[0]) / stride + 1,
            (wide + before[1] + after[1] - kernel[1]) / stride + 1,
        ];
        let window = Window {
            batch,
            input: [height, width],
            enlarged: extra.enlarged,
            kernel,
            stride,
            padding: before,
            output,
        };
        let rows = batch * output[0] * output[1];
        let shift = extra.shift.map(|shift| (shift.dims()[0], numbers(shift)));
        let residual = extra.residual.map(|map| numbers(map.permute([0, 2, 3, 1])));
        let finish = Finish {
            shift: shift.as_ref().map(|(count, numbers)| Shift {
                numbers: numbers.as_slice(),
                rows: rows / count,
            }),
            residual: residual.as_ref().map(fast::Numbers::as_slice),
            ..Default::default()
        };
        let pixels = numbers(x.clone().permute([0, 2, 3, 1]));
        let mut out = room(rows * channels);
        compute(pixels.as_slice(), window, &finish, &mut out);
        fast::to_map(out, [batch, output[0], output[1], channels], x)
    }

    fn run_plain(&self, layer: &nn::conv::Conv2d, mut x: Tensor<4>, extra: Extra) -> Tensor<4> {
        let Shape { before, after, .. } = self.shape;
        if let Some(size) = extra.enlarged {
            let options = InterpolateOptions::new(InterpolateMode::Nearest);
            x = interpolate(x, options.with_output_size(size));
        }
        if before != after {
            let sides = (before[1], after[1], before[0], after[0]);
            x = x.pad(sides, PadMode::Constant(0.0));
        }
        let mut result = layer.forward(x);
        if let Some(shift) = extra.shift {
            let [batch, channels, lines, _] = result.dims();
            let count = shift.dims()[0];
            result = result
                + if count == 1 || count == batch {
                    shift.reshape([count, channels, 1, 1])
                } else {
                    shift.reshape([batch, lines, channels, 1]).swap_dims(1, 2)
                };
        }
        match extra.residual {
            Some(residual) => residual + result,
            None => result,
        }
    }
}
