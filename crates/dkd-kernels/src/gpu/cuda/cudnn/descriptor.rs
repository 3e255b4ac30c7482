//! cuDNN's descriptors: objects with attributes, finalised before they are used.

use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::cudnn::sys;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind,
};

/// What cuDNN answers where it may refuse.
pub(super) type Asked<T> = std::result::Result<T, Refusal>;

/// A status that is no success, and what cuDNN said besides.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: sys::cudnnStatus_t,
    said: String,
}

impl Refusal {
    /// The status that a call has just given.
    pub fn of(status: sys::cudnnStatus_t) -> Self {
        let mut text = [0 as c_char; 512];
        // SAFETY: there is room for so many characters, of which the last stays 0.
        unsafe { sys::cudnnGetLastErrorString(text.as_mut_ptr(), text.len() - 1) };
        // SAFETY: it ends within the array.
        let said = unsafe { CStr::from_ptr(text.as_ptr()) };
        Self { status, said: said.to_string_lossy().lines().next().unwrap_or_default().to_owned() }
    }

    /// In one line.
    pub fn text(&self) -> String {
        let status = format!("{:?}", self.status).replace("CUDNN_STATUS_", "");
        if self.said.is_empty() { status } else { format!("{status}: {}", self.said) }
    }

    /// As an error of a call.
    pub fn error(self, call: &'static str) -> GpuError {
        GpuError::Driver { call, message: self.text() }
    }
}

/// Checks a status.
pub(super) fn asked(status: sys::cudnnStatus_t) -> Asked<()> {
    if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS { Ok(()) } else { Err(Refusal::of(status)) }
}

/// What attributes are made of.
///
/// # Safety
/// cuDNN's type is of this size and layout, and any bits are a value.
pub(super) unsafe trait Attribute: Copy {
    const TYPE: Type;
}

/// A number of an enumeration, of which newer libraries have more than this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Code<const TYPE: u32>(pub u32);

impl<const TYPE: u32> Code<TYPE> {
    pub fn new(number: u32) -> Self {
        Self(number)
    }
}

pub(super) type DataType = Code<{ Type::CUDNN_TYPE_DATA_TYPE as u32 }>;
pub(super) type ConvolutionMode = Code<{ Type::CUDNN_TYPE_CONVOLUTION_MODE as u32 }>;
pub(super) type PointwiseMode = Code<{ Type::CUDNN_TYPE_POINTWISE_MODE as u32 }>;
pub(super) type NanPropagation = Code<{ Type::CUDNN_TYPE_NAN_PROPOGATION as u32 }>;
pub(super) type HeuristicsMode = Code<{ Type::CUDNN_TYPE_HEUR_MODE as u32 }>;
pub(super) type Note = Code<{ Type::CUDNN_TYPE_NUMERICAL_NOTE as u32 }>;
pub(super) type Behavior = Code<{ Type::CUDNN_TYPE_BEHAVIOR_NOTE as u32 }>;

/// What is set or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Flag(u8);

impl Flag {
    pub const YES: Self = Self(1);
}

macro_rules! attributes {
    ($($of:ty => $name:ident),* $(,)?) => {
        // SAFETY: these are the types in cuDNN's header; its enumerations are of 32 bits.
        $(unsafe impl Attribute for $of { const TYPE: Type = Type::$name; })*
    };
}
attributes! {
    i64 => CUDNN_TYPE_INT64,
    f32 => CUDNN_TYPE_FLOAT,
    *mut c_void => CUDNN_TYPE_VOID_PTR,
    sys::cudnnHandle_t => CUDNN_TYPE_HANDLE,
    u8 => CUDNN_TYPE_CHAR,
    Flag => CUDNN_TYPE_BOOLEAN,
    DataType => CUDNN_TYPE_DATA_TYPE,
    ConvolutionMode => CUDNN_TYPE_CONVOLUTION_MODE,
    PointwiseMode => CUDNN_TYPE_POINTWISE_MODE,
    NanPropagation => CUDNN_TYPE_NAN_PROPOGATION,
    HeuristicsMode => CUDNN_TYPE_HEUR_MODE,
    Note => CUDNN_TYPE_NUMERICAL_NOTE,
    Behavior => CUDNN_TYPE_BEHAVIOR_NOTE,
}

/// One of cuDNN's objects.
#[derive(Debug)]
pub(super) struct Descriptor(sys::cudnnBackendDescriptor_t);

// SAFETY: memory of cuDNN's that belongs to no thread.
unsafe impl Send for Descriptor {}
// SAFETY: cuDNN does not promise that plans may be used by several threads at once; whoever runs one has the lock of `Cudnn`'s state.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    /// One without attributes.
    pub fn new(kind: Kind) -> Result<Self> {
        let mut made = ptr::null_mut();
        // SAFETY: it is written there.
        let done = asked(unsafe { sys::cudnnBackendCreateDescriptor(kind, &raw mut made) });
        done.map(|()| Self(made)).map_err(|e| e.error("cudnnBackendCreateDescriptor"))
    }

    /// cuDNN's own.
    pub fn raw(&self) -> sys::cudnnBackendDescriptor_t {
        self.0
    }

    /// Sets an attribute.
    pub fn set<T: Attribute>(&self, name: Name, values: &[T]) -> Asked<()> {
        self.set_as(name, T::TYPE, values.len(), values.as_ptr().cast())
    }

    /// Sets an attribute that is other descriptors, which are finalised, and alive for as long as this one is used.
    pub fn set_descriptors(&self, name: Name, values: &[&Self]) -> Asked<()> {
        let values: Vec<_> = values.iter().map(|value| value.0).collect();
        self.set_as(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, values.len(), values.as_ptr().cast())
    }

    fn set_as(&self, name: Name, of: Type, count: usize, values: *const c_void) -> Asked<()> {
        // SAFETY: there are as many values of this type.
        asked(unsafe { sys::cudnnBackendSetAttribute(self.0, name, of, count as i64, values) })
    }

    /// Ends the setting of attributes.
    pub fn finalize(self) -> Asked<Self> {
        // SAFETY: the descriptor is alive.
        asked(unsafe { sys::cudnnBackendFinalize(self.0) })?;
        Ok(self)
    }

    /// Values of an attribute, `most` of them at most; `zero` is one of them.
    pub fn get<T: Attribute>(&self, name: Name, zero: T, most: usize) -> Asked<Vec<T>> {
        let mut values = vec![zero; most];
        let count = self.get_as(name, T::TYPE, most, values.as_mut_ptr().cast())?;
        values.truncate(count);
        Ok(values)
    }

    /// How many descriptors an attribute is.
    pub fn count(&self, name: Name) -> Asked<usize> {
        self.get_as(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, ptr::null_mut())
    }

    /// Writes an attribute that is other descriptors into these; how many they are.
    pub fn get_descriptors(&self, name: Name, to: &[Self]) -> Asked<usize> {
        let mut values: Vec<_> = to.iter().map(|descriptor| descriptor.0).collect();
        self.get_as(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, values.len(), values.as_mut_ptr().cast())
    }

    fn get_as(&self, name: Name, of: Type, most: usize, values: *mut c_void) -> Asked<usize> {
        let mut count = 0;
        // SAFETY: there is room for as many values of this type.
        asked(unsafe {
            sys::cudnnBackendGetAttribute(self.0, name, of, most as i64, &raw mut count, values)
        })?;
        let count = usize::try_from(count).unwrap_or_default();
        Ok(if most == 0 { count } else { count.min(most) })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it is alive, and nobody else has it.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}
