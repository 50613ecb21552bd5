//! What a message looks like, and how it becomes bytes.

use std::fmt;

/// The type of a message's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Element {
    /// Bytes.
    U8,
    /// 32-bit unsigned integers.
    U32,
    /// 16-bit floats.
    F16,
    /// 16-bit floats with the exponent of a 32-bit float.
    Bf16,
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
}

impl Element {
    const ALL: [Self; 6] = [
        Self::U8,
        Self::U32,
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
    ];

    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// A number for each type, to be sent.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The type with this [`Element::code`].
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::U32 => "u32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}

/// Shape and element type of a message.
///
/// ```
/// use asyncdiff_comm::{Element, Form};
///
/// let latents = Form::new([1, 4, 64, 64], Element::F32);
/// assert_eq!(latents.bytes(), Some(65536));
/// assert_eq!(latents.to_string(), "1x4x64x64 of f32");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// Elements along each dimension, the slowest first; none for a single number.
    pub shape: Vec<usize>,
    /// What they are.
    pub element: Element,
}

impl Form {
    /// A message of `shape` and `element`.
    pub fn new(shape: impl Into<Vec<usize>>, element: Element) -> Self {
        Self {
            shape: shape.into(),
            element,
        }
    }

    /// Bytes of such a message; `None` if they cannot be counted.
    #[must_use]
    pub fn bytes(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(self.element.bytes(), |bytes, length| {
                bytes.checked_mul(*length)
            })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shape.is_empty() {
            return write!(f, "one {}", self.element);
        }
        for (index, length) in self.shape.iter().enumerate() {
            let between = if index == 0 { "" } else { "x" };
            write!(f, "{between}{length}")?;
        }
        write!(f, " of {}", self.element)
    }
}

/// One message of a run that is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The sending rank.
    pub from: usize,
    /// The receiving rank.
    pub to: usize,
    /// Its tag; no two messages between the same ranks have the same.
    pub tag: u64,
    /// Its form.
    pub form: Form,
}

/// What can be sent: an array of numbers that knows its form.
pub trait Message: Sized + Send + 'static {
    /// Its form.
    fn form(&self) -> Form;

    /// Its elements in row-major order, each in little-endian order. May take time: a transport calls it where that keeps
    /// nobody waiting.
    fn into_bytes(self) -> impl AsRef<[u8]>;

    /// The message that became `bytes`; there are as many as `form` says.
    fn from_bytes(form: &Form, bytes: Vec<u8>) -> Self;
}

impl Message for Vec<u8> {
    fn form(&self) -> Form {
        Form::new([self.len()], Element::U8)
    }

    fn into_bytes(self) -> impl AsRef<[u8]> {
        self
    }

    fn from_bytes(_: &Form, bytes: Vec<u8>) -> Self {
        bytes
    }
}

macro_rules! numbers {
    ($($number:ty, $element:ident);*) => { $(
        impl Message for $number {
            fn form(&self) -> Form {
                Form::new([], Element::$element)
            }

            fn into_bytes(self) -> impl AsRef<[u8]> {
                self.to_le_bytes()
            }

            fn from_bytes(_: &Form, bytes: Vec<u8>) -> Self {
                let mut number = [0; size_of::<Self>()];
                number.copy_from_slice(&bytes);
                Self::from_le_bytes(number)
            }
        }

        impl Message for Vec<$number> {
            fn form(&self) -> Form {
                Form::new([self.len()], Element::$element)
            }

            fn into_bytes(self) -> impl AsRef<[u8]> {
                self.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()
            }

            fn from_bytes(_: &Form, bytes: Vec<u8>) -> Self {
                let (numbers, _) = bytes.as_chunks();
                numbers.iter().map(|number| <$number>::from_le_bytes(*number)).collect()
            }
        }
    )* };
}

numbers!(u32, U32; f32, F32; f64, F64);
