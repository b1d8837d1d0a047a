//! Reads the protocol's primitive types from a frame's body.

use bytes::{Buf, Bytes};

use crate::error::Error;

/// Reads a body from front to back. Every method fails with a protocol error when too few bytes are left.
#[derive(Debug)]
pub(crate) struct Reader(Bytes);

type Result<T> = std::result::Result<T, Error>;

impl Reader {
    pub(crate) fn new(body: Bytes) -> Self {
        Self(body)
    }

    fn need(&self, bytes: usize) -> Result<()> {
        if self.0.remaining() < bytes {
            return Err(Error::protocol(format!(
                "Truncated frame: {bytes} more bytes expected, {} left",
                self.0.remaining()
            )));
        }
        Ok(())
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    pub(crate) fn short(&mut self) -> Result<u16> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }

    pub(crate) fn int(&mut self) -> Result<i32> {
        self.need(4)?;
        Ok(self.0.get_i32())
    }

    pub(crate) fn long(&mut self) -> Result<i64> {
        self.need(8)?;
        Ok(self.0.get_i64())
    }

    fn take(&mut self, length: usize) -> Result<Bytes> {
        self.need(length)?;
        Ok(self.0.split_to(length))
    }

    fn text(bytes: &Bytes) -> Result<String> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Error::protocol("Cannot decode string as UTF8")),
        }
    }

    pub(crate) fn string(&mut self) -> Result<String> {
        let length = self.short()?;
        Self::text(&self.take(usize::from(length))?)
    }

    pub(crate) fn long_string(&mut self) -> Result<String> {
        let length = self.int()?;
        let length = usize::try_from(length)
            .map_err(|_| Error::protocol(format!("Negative string length {length}")))?;
        Self::text(&self.take(length)?)
    }

    pub(crate) fn short_bytes(&mut self) -> Result<Bytes> {
        let length = self.short()?;
        self.take(usize::from(length))
    }

    /// Bytes with a length that may be negative: -1 is null, -2 (in version 4) is "not set".
    pub(crate) fn value(&mut self) -> Result<std::result::Result<Bytes, i32>> {
        let length = self.int()?;
        match usize::try_from(length) {
            Ok(length) => Ok(Ok(self.take(length)?)),
            Err(_) => Ok(Err(length)),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(self.value()?.ok())
    }

    /// A list whose 16-bit length comes first. Each element takes at least two bytes, which bounds the allocation.
    pub(crate) fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = usize::from(self.short()?);
        let mut list = Vec::with_capacity(count.min(self.0.remaining() / 2));
        for _ in 0..count {
            list.push(element(self)?);
        }
        Ok(list)
    }

    pub(crate) fn skip_bytes_map(&mut self) -> Result<()> {
        self.list(|reader| {
            reader.string()?;
            reader.bytes()
        })?;
        Ok(())
    }
}
