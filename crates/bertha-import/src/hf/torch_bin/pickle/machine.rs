//! The stack machine.

use std::collections::HashMap;

use super::globals::{self, Global};
use super::heap::{Heap, Object, Ref};
use super::opcodes as op;
use super::reader::Reader;
use super::{PickleError, excerpt, rebuild};

/// Which container the pickle comes from: persistent ids differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hf::torch_bin) enum Dialect {
    /// No storages: the small pickles of the old format.
    Plain,
    /// `("storage", type, key, location, length)`
    Zip,
    /// `("storage", type, key, location, length, view)`
    Legacy,
}

/// Runs one pickle from where `reader` stands, through its `STOP`; returns its value.
///
/// # Errors
/// [`PickleError`]: anything outside what tensors need, cut-off input, misuse of the stack.
pub(in crate::hf::torch_bin) fn run(
    reader: &mut Reader<'_>,
    dialect: Dialect,
) -> Result<(Heap, Ref), PickleError> {
    let mut machine = Machine {
        base: reader.position(),
        offset: 0,
        reader,
        dialect,
        heap: Heap::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        tensors: 0,
        copied: 0,
    };
    loop {
        machine.offset = machine.here();
        if let Some(result) = machine.step()? {
            return Ok((machine.heap, result));
        }
        if machine.here() > super::MAX_PICKLE_BYTES {
            let limit = super::MAX_PICKLE_BYTES >> 20;
            return Err(machine.invalid(format!("the pickle is longer than {limit} MiB")));
        }
    }
}

struct Machine<'r, 'a> {
    reader: &'r mut Reader<'a>,
    /// Where this pickle starts in the reader.
    base: usize,
    /// Offset of the opcode at work, for messages.
    offset: usize,
    dialect: Dialect,
    heap: Heap,
    stack: Vec<Ref>,
    /// Stack heights at which a `MARK` was set. Values below the last one are out of reach.
    marks: Vec<usize>,
    memo: HashMap<u64, Ref>,
    /// Tensors described so far.
    tensors: usize,
    /// Entries copied from one container to another so far; a shared container could be copied over and over.
    copied: usize,
}

impl Machine<'_, '_> {
    fn here(&self) -> usize {
        self.reader.position() - self.base
    }

    fn invalid(&self, reason: impl Into<String>) -> PickleError {
        PickleError::invalid(self.offset, reason)
    }

    /// One opcode. `Some` at the end.
    fn step(&mut self) -> Result<Option<Ref>, PickleError> {
        let opcode = self.reader.byte()?;
        match opcode {
            op::PROTO => {
                let version = self.reader.byte()?;
                if version > op::MAX_PROTOCOL {
                    return Err(self.invalid(format!("pickle protocol {version} is not known")));
                }
            }
            op::FRAME => {
                self.reader.array::<8>()?; // frames only help buffering
            }
            op::STOP => {
                let result = self.pop()?;
                if !self.stack.is_empty() || !self.marks.is_empty() {
                    return Err(self.invalid("the pickle stops with values left on its stack"));
                }
                return Ok(Some(result));
            }
            op::MARK => self.marks.push(self.stack.len()),
            op::POP => {
                // As in Python, POP takes away a mark when that is what is on top.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            op::POP_MARK => {
                self.pop_to_mark()?;
            }
            op::DUP => {
                let top = self.peek()?;
                self.stack.push(top);
            }
            op::GET | op::BINGET | op::LONG_BINGET | op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => {
                self.memo_access(opcode)?;
            }
            op::EMPTY_LIST | op::LIST | op::APPEND | op::APPENDS => self.list(opcode)?,
            op::EMPTY_DICT | op::DICT | op::SETITEM | op::SETITEMS => self.dict(opcode)?,
            op::EMPTY_TUPLE | op::TUPLE | op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => self.tuple(opcode)?,
            op::GLOBAL | op::STACK_GLOBAL | op::INST => self.global(opcode)?,
            op::REDUCE | op::NEWOBJ | op::OBJ | op::BUILD | op::BINPERSID => self.construct(opcode)?,
            _ => {
                let object = self.literal(opcode)?;
                self.push(object)?;
            }
        }
        Ok(None)
    }

    // --- the stack

    fn push(&mut self, object: Object) -> Result<(), PickleError> {
        let reference = self.heap.add(object);
        self.stack.push(reference.ok_or_else(|| self.invalid("too many values"))?);
        Ok(())
    }

    /// Height below which the current opcode must not reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn peek(&self) -> Result<Ref, PickleError> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => Err(self.invalid("the stack is empty")),
        }
    }

    fn pop(&mut self) -> Result<Ref, PickleError> {
        let top = self.peek()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Ref>, PickleError> {
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= self.floor());
        let start = start.ok_or_else(|| self.invalid("the stack is empty"))?;
        Ok(self.stack.split_off(start))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Ref>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.invalid("no mark on the stack"))?;
        Ok(self.stack.split_off(mark))
    }

    // --- groups of opcodes

    fn memo_access(&mut self, opcode: u8) -> Result<(), PickleError> {
        let slot = match opcode {
            op::GET | op::PUT => {
                let line = self.reader.line()?;
                line.parse().map_err(|_| self.invalid(format!("memo slot `{}`", excerpt(line))))?
            }
            op::BINGET | op::BINPUT => u64::from(self.reader.byte()?),
            op::LONG_BINGET | op::LONG_BINPUT => u64::from(self.reader.u32()?),
            _ => self.memo.len() as u64,
        };
        if matches!(opcode, op::GET | op::BINGET | op::LONG_BINGET) {
            let value = self.memo.get(&slot).copied();
            self.stack.push(value.ok_or_else(|| self.invalid(format!("memo slot {slot} is empty")))?);
        } else {
            let top = self.peek()?;
            self.memo.insert(slot, top);
        }
        Ok(())
    }

    fn list(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            op::EMPTY_LIST => return self.push(Object::List(Vec::new())),
            op::LIST => {
                let items = self.pop_to_mark()?;
                return self.push(Object::List(items));
            }
            op::APPEND => vec![self.pop()?],
            _ => self.pop_to_mark()?,
        };
        let target = self.peek()?;
        match self.heap.get_mut(target) {
            Object::List(list) => list.extend(items),
            other => {
                let kind = other.kind();
                return Err(self.invalid(format!("appends to {kind}")));
            }
        }
        Ok(())
    }

    fn dict(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            op::EMPTY_DICT => return self.push(Object::Dict(Vec::new())),
            op::SETITEM => self.pop_many(2)?,
            _ => self.pop_to_mark()?,
        };
        let pairs = self.pairs(&items)?;
        if opcode == op::DICT {
            return self.push(Object::Dict(pairs));
        }
        let target = self.peek()?;
        match self.heap.get_mut(target) {
            Object::Dict(dict) => dict.extend(pairs),
            other => {
                let kind = other.kind();
                return Err(self.invalid(format!("sets an item of {kind}")));
            }
        }
        Ok(())
    }

    /// Keys and values from a flat run of them.
    fn pairs(&self, items: &[Ref]) -> Result<Vec<(Ref, Ref)>, PickleError> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.invalid("a dictionary key without a value"));
        }
        for [key, _] in pairs {
            let key = self.heap.get(*key);
            if matches!(key, Object::List(_) | Object::Dict(_)) {
                return Err(self.invalid(format!("{} as a dictionary key (unhashable)", key.kind())));
            }
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            op::EMPTY_TUPLE => Vec::new(),
            op::TUPLE1 => self.pop_many(1)?,
            op::TUPLE2 => self.pop_many(2)?,
            op::TUPLE3 => self.pop_many(3)?,
            _ => self.pop_to_mark()?,
        };
        self.push(Object::Tuple(items))
    }

    fn global(&mut self, opcode: u8) -> Result<(), PickleError> {
        let (module, name) = if opcode == op::STACK_GLOBAL {
            let name = self.pop()?;
            let module = self.pop()?;
            match (self.heap.get(module), self.heap.get(name)) {
                (Object::Str(module), Object::Str(name)) => (module.clone(), name.clone()),
                _ => return Err(self.invalid("a global name that is not a string")),
            }
        } else {
            (self.reader.line()?.to_owned(), self.reader.line()?.to_owned())
        };
        match globals::allowed(&module, &name) {
            Some(global) if opcode != op::INST => self.push(Object::Global(global)),
            Some(_) => Err(PickleError::Opcode { opcode, offset: self.offset }),
            None => match globals::unsupported(&module, &name) {
                Some(reason) => {
                    Err(self.invalid(format!("`{}`: {reason}", excerpt(&format!("{module}.{name}")))))
                }
                None => Err(PickleError::ForbiddenGlobal {
                    global: excerpt(&format!("{module}.{name}")),
                    offset: self.offset,
                }),
            },
        }
    }

    fn construct(&mut self, opcode: u8) -> Result<(), PickleError> {
        let object = match opcode {
            op::REDUCE | op::NEWOBJ => {
                let arguments = self.pop()?;
                let callee = self.pop()?;
                let Object::Tuple(arguments) = self.heap.get(arguments) else {
                    return Err(self.invalid("arguments that are not a tuple"));
                };
                let Object::Global(global) = self.heap.get(callee) else {
                    return Err(self.invalid(format!("calls {}", self.heap.get(callee).kind())));
                };
                if opcode == op::NEWOBJ && *global != Global::OrderedDict {
                    return Err(self.invalid("makes an object of something that is not a class"));
                }
                let object = rebuild::call(&self.heap, *global, arguments);
                let object = object.map_err(|reason| self.invalid(reason))?;
                self.charge(&object)?;
                object
            }
            op::BUILD => {
                // The state of an OrderedDict is its attributes (PyTorch puts the modules' version numbers there).
                self.pop()?;
                let target = self.peek()?;
                return match self.heap.get(target) {
                    Object::Dict(_) | Object::Ignored => Ok(()),
                    other => Err(self.invalid(format!("sets the attributes of {}", other.kind()))),
                };
            }
            op::BINPERSID => {
                let id = self.pop()?;
                rebuild::persistent(&self.heap, id, self.dialect).map_err(|reason| self.invalid(reason))?
            }
            _ => return Err(PickleError::Opcode { opcode, offset: self.offset }),
        };
        self.push(object)
    }

    /// Counts what a call made against the limits of the pickle.
    fn charge(&mut self, object: &Object) -> Result<(), PickleError> {
        match object {
            Object::Tensor(_) => self.tensors += 1,
            Object::Dict(entries) => self.copied += entries.len(),
            _ => {}
        }
        if self.tensors > super::MAX_TENSORS || self.copied > super::MAX_VALUES {
            return Err(self.invalid("too many values"));
        }
        Ok(())
    }

    fn literal(&mut self, opcode: u8) -> Result<Object, PickleError> {
        Ok(match opcode {
            op::NONE => Object::None,
            op::NEWTRUE => Object::Bool(true),
            op::NEWFALSE => Object::Bool(false),
            op::BININT => Object::Int(i32::from_le_bytes(self.reader.array()?).into()),
            op::BININT1 => Object::Int(self.reader.byte()?.into()),
            op::BININT2 => Object::Int(self.reader.u16()?.into()),
            op::LONG1 => {
                let length = self.reader.byte()?;
                self.long(length.into())?
            }
            op::LONG4 => {
                let length = self.reader.signed_length()?;
                self.long(length)?
            }
            op::INT => match self.reader.line()? {
                "00" => Object::Bool(false),
                "01" => Object::Bool(true),
                digits => self.decimal(digits)?,
            },
            op::LONG => {
                let digits = self.reader.line()?;
                self.decimal(digits.strip_suffix('L').unwrap_or(digits))?
            }
            op::BINFLOAT => Object::Float(f64::from_be_bytes(self.reader.array()?)),
            op::FLOAT => {
                let line = self.reader.line()?;
                Object::Float(
                    line.parse().map_err(|_| self.invalid(format!("the float `{}`", excerpt(line))))?,
                )
            }
            op::BINUNICODE => {
                let length = self.reader.u32()? as usize;
                Object::Str(self.reader.text(length)?.to_owned())
            }
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING => {
                let length = self.reader.byte()?;
                Object::Str(self.reader.text(length.into())?.to_owned())
            }
            op::BINUNICODE8 => {
                let length = self.reader.long_length()?;
                Object::Str(self.reader.text(length)?.to_owned())
            }
            op::BINSTRING => {
                let length = self.reader.signed_length()?;
                Object::Str(self.reader.text(length)?.to_owned())
            }
            op::STRING | op::UNICODE => self.quoted(opcode)?,
            op::SHORT_BINBYTES => {
                let length = self.reader.byte()?;
                self.skip(length.into())?
            }
            op::BINBYTES => {
                let length = self.reader.u32()? as usize;
                self.skip(length)?
            }
            op::BINBYTES8 => {
                let length = self.reader.long_length()?;
                self.skip(length)?
            }
            _ => return Err(PickleError::Opcode { opcode, offset: self.offset }),
        })
    }

    /// Bytes objects have no use in a checkpoint; they are passed over.
    fn skip(&mut self, length: usize) -> Result<Object, PickleError> {
        self.reader.take(length)?;
        Ok(Object::Bytes)
    }

    /// A little-endian two's complement integer.
    fn long(&mut self, length: usize) -> Result<Object, PickleError> {
        let bytes = self.reader.take(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut extended = if negative { [0xff; 16] } else { [0; 16] };
        let part = extended.get_mut(..length).ok_or_else(|| self.invalid("an integer of over 128 bits"))?;
        part.copy_from_slice(bytes);
        Ok(Object::Int(i128::from_le_bytes(extended)))
    }

    fn decimal(&self, digits: &str) -> Result<Object, PickleError> {
        digits
            .parse()
            .map(Object::Int)
            .map_err(|_| self.invalid(format!("the integer `{}`", excerpt(digits))))
    }

    /// Text literals of protocol 0. Escapes are not needed for tensor names and are refused.
    fn quoted(&mut self, opcode: u8) -> Result<Object, PickleError> {
        let line = self.reader.line()?;
        let text = match opcode {
            op::UNICODE => line,
            _ => ['\'', '"']
                .iter()
                .find_map(|&quote| line.strip_prefix(quote)?.strip_suffix(quote))
                .ok_or_else(|| self.invalid("a string without quotes"))?,
        };
        if text.contains('\\') {
            return Err(self.invalid("a string with escapes"));
        }
        Ok(Object::Str(text.to_owned()))
    }
}
