//! How a tensor's values are stored: plain numbers, or blocks of a few bits a value.

use std::fmt;

/// The storage of a tensor's values, under ggml's name for it.
///
/// Kinds that [`super::Gguf::read`] converts have a variant; the others are known by name and size only, so that a file
/// that holds them can be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// 8 bits a value, a scale for each 32.
    Q8_0,
    /// 4 bits a value, a scale for each 32.
    Q4_0,
    /// 4 bits a value, a scale and a minimum for each 32.
    Q4_1,
    /// 5 bits a value, a scale for each 32.
    Q5_0,
    /// 5 bits a value, a scale and a minimum for each 32.
    Q5_1,
    /// 4 bits a value, 6-bit scales and minima for each 32 of 256.
    Q4K,
    /// 5 bits a value, 6-bit scales and minima for each 32 of 256.
    Q5K,
    /// 6 bits a value, 8-bit scales for each 16 of 256.
    Q6K,
    /// A kind that is not converted here.
    Other(OtherKind),
}

/// A kind of storage that is not converted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OtherKind {
    name: &'static str,
    values: usize,
    bytes: usize,
}

impl TensorKind {
    /// The kind with ggml's number for it, as `GGMLQuantizationType` and `GGML_QUANT_SIZES` of the PyPI package `gguf`
    /// 0.19.0 have it.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        let other = |name, values, bytes| Self::Other(OtherKind { name, values, bytes });
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            9 => other("Q8_1", 32, 40),
            10 => other("Q2_K", 256, 84),
            11 => other("Q3_K", 256, 110),
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            15 => other("Q8_K", 256, 292),
            16 => other("IQ2_XXS", 256, 66),
            17 => other("IQ2_XS", 256, 74),
            18 => other("IQ3_XXS", 256, 98),
            19 => other("IQ1_S", 256, 50),
            20 => other("IQ4_NL", 32, 18),
            21 => other("IQ3_S", 256, 110),
            22 => other("IQ2_S", 256, 82),
            23 => other("IQ4_XS", 256, 136),
            24 => other("I8", 1, 1),
            25 => other("I16", 1, 2),
            26 => other("I32", 1, 4),
            27 => other("I64", 1, 8),
            28 => other("F64", 1, 8),
            29 => other("IQ1_M", 256, 56),
            30 => Self::BF16,
            34 => other("TQ1_0", 256, 54),
            35 => other("TQ2_0", 256, 66),
            39 => other("MXFP4", 32, 17),
            40 => other("NVFP4", 64, 36),
            41 => other("Q1_0", 128, 18),
            _ => return None,
        })
    }

    /// Values in a block; 1 for plain numbers.
    #[must_use]
    pub fn values_per_block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
            Self::Other(other) => other.values,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn bytes_per_block(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Other(other) => other.bytes,
        }
    }

    /// ggml's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Other(other) => other.name,
        }
    }
}

impl fmt::Display for TensorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
