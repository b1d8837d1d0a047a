//! Writes the protocol's primitive types.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use crate::types::CqlType;

/// The longest prefix of `text` that fits a 16-bit length.
fn clip(text: &str) -> &str {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The protocol's primitives on a growing buffer.
pub(crate) trait WriteExt {
    fn put_string(&mut self, text: &str);
    fn put_short_bytes(&mut self, bytes: &[u8]);
    fn put_value(&mut self, value: Option<&[u8]>);
    fn put_string_list<'a>(&mut self, list: impl ExactSizeIterator<Item = &'a str>);
    fn put_address(&mut self, address: SocketAddr);
    fn put_type(&mut self, ty: &CqlType);
}

impl WriteExt for BytesMut {
    fn put_string(&mut self, text: &str) {
        let text = clip(text);
        self.put_u16(text.len() as u16);
        self.put_slice(text.as_bytes());
    }

    fn put_short_bytes(&mut self, bytes: &[u8]) {
        self.put_u16(bytes.len() as u16);
        self.put_slice(bytes);
    }

    fn put_value(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => {
                self.put_i32(bytes.len() as i32);
                self.put_slice(bytes);
            }
            None => self.put_i32(-1),
        }
    }

    fn put_string_list<'a>(&mut self, list: impl ExactSizeIterator<Item = &'a str>) {
        self.put_u16(list.len() as u16);
        for text in list {
            self.put_string(text);
        }
    }

    fn put_address(&mut self, address: SocketAddr) {
        match address.ip() {
            std::net::IpAddr::V4(v4) => {
                self.put_u8(4);
                self.put_slice(&v4.octets());
            }
            std::net::IpAddr::V6(v6) => {
                self.put_u8(16);
                self.put_slice(&v6.octets());
            }
        }
        self.put_i32(i32::from(address.port()));
    }

    fn put_type(&mut self, ty: &CqlType) {
        let simple = match ty {
            CqlType::Ascii => 0x01,
            CqlType::BigInt => 0x02,
            CqlType::Blob => 0x03,
            CqlType::Boolean => 0x04,
            CqlType::Counter => 0x05,
            CqlType::Decimal => 0x06,
            CqlType::Double => 0x07,
            CqlType::Float => 0x08,
            CqlType::Int => 0x09,
            CqlType::Timestamp => 0x0B,
            CqlType::Uuid => 0x0C,
            CqlType::Text => 0x0D,
            CqlType::VarInt => 0x0E,
            CqlType::TimeUuid => 0x0F,
            CqlType::Inet => 0x10,
            CqlType::Date => 0x11,
            CqlType::Time => 0x12,
            CqlType::SmallInt => 0x13,
            CqlType::TinyInt => 0x14,
            CqlType::Duration => 0x15,
            CqlType::Frozen(inner) => return self.put_type(inner),
            CqlType::List(element) => {
                self.put_u16(0x20);
                return self.put_type(element);
            }
            CqlType::Map(key, value) => {
                self.put_u16(0x21);
                self.put_type(key);
                return self.put_type(value);
            }
            CqlType::Set(element) => {
                self.put_u16(0x22);
                return self.put_type(element);
            }
            CqlType::Udt(udt) => {
                self.put_u16(0x30);
                self.put_string(&udt.keyspace);
                self.put_string(&udt.name);
                self.put_u16(udt.fields.len() as u16);
                for (name, ty) in &udt.fields {
                    self.put_string(name);
                    self.put_type(ty);
                }
                return;
            }
            CqlType::Tuple(elements) => {
                self.put_u16(0x31);
                self.put_u16(elements.len() as u16);
                for element in elements {
                    self.put_type(element);
                }
                return;
            }
        };
        self.put_u16(simple);
    }
}
