//! Pickles nobody's tools would write.

use super::{Dialect, Heap, Object, PickleError, Reader, Ref, opcodes as op, run};

/// Assembles pickles.
#[derive(Clone, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn op(mut self, opcode: u8) -> Self {
        self.0.push(opcode);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.op(op::GLOBAL).raw(format!("{module}\n{name}\n").as_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.op(op::BINUNICODE).raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(self, value: i64) -> Self {
        self.op(op::LONG1).raw(&[8]).raw(&value.to_le_bytes())
    }

    fn put(self, slot: u8) -> Self {
        self.op(op::BINPUT).raw(&[slot])
    }

    fn get(self, slot: u8) -> Self {
        self.op(op::BINGET).raw(&[slot])
    }

    /// A storage of `length` floats under key `0`.
    fn storage(self, length: i64) -> Self {
        let start = self.op(op::MARK).text("storage").global("torch", "FloatStorage").text("0").text("cpu");
        start.int(length).op(op::TUPLE).op(op::BINPERSID)
    }

    /// A tuple of integers.
    fn ints(self, values: &[i64]) -> Self {
        values.iter().fold(self.op(op::MARK), |writer, &value| writer.int(value)).op(op::TUPLE)
    }

    fn tensor(self, offset: i64, size: &[i64], stride: &[i64]) -> Self {
        let call = self.global("torch._utils", "_rebuild_tensor_v2").op(op::MARK).storage(16).int(offset);
        let call = call.ints(size).ints(stride).op(op::NEWFALSE).op(op::EMPTY_DICT);
        call.op(op::TUPLE).op(op::REDUCE)
    }

    fn run(self) -> Result<(Heap, Ref), PickleError> {
        let bytes = self.op(op::STOP).0;
        run(&mut Reader::new(&bytes), Dialect::Zip)
    }

    #[track_caller]
    fn complains(self, part: &str) {
        let error = self.run().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

fn new() -> Writer {
    Writer::default()
}

#[test]
fn code_is_refused_by_name_and_place() {
    let dangerous = [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch", "Size.__class__"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
        ("collections", "OrderedDict.__init__"),
        ("torch.hub", "load"),
    ];
    for (module, name) in dangerous {
        let call =
            new().op(op::PROTO).raw(&[2]).global(module, name).text("echo").op(op::TUPLE1).op(op::REDUCE);
        let expected = PickleError::ForbiddenGlobal { global: format!("{module}.{name}"), offset: 2 };
        assert_eq!(call.run().unwrap_err(), expected);
        // Named and thrown away is refused as well.
        assert!(new().global(module, name).op(op::POP).op(op::NONE).run().is_err());
        // By the other spellings of a global.
        let stacked = new().text(module).text(name).op(op::STACK_GLOBAL);
        stacked.complains(&format!("refuses to run `{module}.{name}`"));
        let instance =
            new().op(op::MARK).text("x").op(op::INST).raw(format!("{module}\n{name}\n").as_bytes());
        instance.complains(&format!("refuses to run `{module}.{name}`"));
    }
    // Extension codes stand for globals without naming them.
    new().raw(&[0x82, 1]).complains("opcode 0x82");
}

#[test]
fn allowed_names_cannot_be_misused() {
    new()
        .global("torch", "FloatStorage")
        .op(op::EMPTY_TUPLE)
        .op(op::REDUCE)
        .complains("calls a storage type");
    new()
        .global("torch", "float32")
        .op(op::EMPTY_TUPLE)
        .op(op::REDUCE)
        .complains("calls a storage type or a dtype");
    new().global("torch", "Size").op(op::EMPTY_TUPLE).op(op::NEWOBJ).complains("not a class");
    new().global("torch", "Size").op(op::EMPTY_DICT).op(op::BUILD).complains("sets the attributes of");
    new().text("os").op(op::EMPTY_TUPLE).op(op::REDUCE).complains("calls a string");
    new().global("torch", "Size").int(1).op(op::REDUCE).complains("not a tuple");
    new().global("torch", "QInt8Storage").complains("quantised) are not supported");
    new().global("torch._utils", "_rebuild_sparse_tensor").complains("sparse tensors are not supported");
}

#[test]
fn the_stack_is_guarded() {
    new().complains("the stack is empty");
    new().op(op::TUPLE2).complains("the stack is empty");
    new().op(op::TUPLE).complains("no mark");
    new().op(op::DUP).complains("the stack is empty");
    new().op(op::NONE).op(op::NONE).complains("values left on its stack");
    new().op(op::NONE).op(op::MARK).op(op::POP_MARK).op(op::MARK).complains("the stack is empty");
    // Nothing below a mark can be reached.
    new().op(op::NONE).op(op::NONE).op(op::MARK).op(op::TUPLE2).complains("the stack is empty");
    new().op(op::EMPTY_LIST).op(op::MARK).op(op::NONE).op(op::APPEND).complains("the stack is empty");
    new().get(9).complains("memo slot 9 is empty");
    new().op(op::GET).raw(b"-1\n").complains("memo slot `-1`");
}

#[test]
fn values_are_checked() {
    new().op(op::EMPTY_DICT).op(op::EMPTY_LIST).op(op::NONE).op(op::SETITEM).complains("unhashable");
    new().op(op::EMPTY_DICT).op(op::EMPTY_DICT).op(op::NONE).op(op::SETITEM).complains("unhashable");
    new().op(op::EMPTY_DICT).op(op::MARK).op(op::NONE).op(op::SETITEMS).complains("key without a value");
    new().op(op::EMPTY_TUPLE).op(op::NONE).op(op::APPEND).complains("appends to a tuple");
    new().op(op::EMPTY_LIST).op(op::NONE).op(op::NONE).op(op::SETITEM).complains("sets an item of a list");
    new().op(op::LONG1).raw(&[17]).raw(&[1; 17]).complains("over 128 bits");
    new().op(op::LONG4).raw(&(-1i32).to_le_bytes()).complains("negative length (-1)");
    new().op(op::BINSTRING).raw(&(-5i32).to_le_bytes()).complains("negative length (-5)");
    new().op(op::INT).raw(b"12x\n").complains("the integer `12x`");
    new().op(op::FLOAT).raw(b"one\n").complains("the float `one`");
    new().op(op::STRING).raw(b"'\\x41'\n").complains("escapes");
    new().op(op::PROTO).raw(&[9]).complains("protocol 9");
    new().op(op::BINUNICODE).raw(&2u32.to_le_bytes()).raw(b"\xff\xfe").complains("not UTF-8");
    new().raw(&[0xff]).complains("opcode 0xff at offset 0");
}

#[test]
fn huge_counts_ask_for_no_memory() {
    for length in [u32::MAX, i32::MAX as u32] {
        let cut = new().op(op::BINUNICODE).raw(&length.to_le_bytes()).raw(b"x").run().unwrap_err();
        assert!(matches!(cut, PickleError::Truncated { .. }), "{cut}");
    }
    for opcode in [op::BINUNICODE8, op::BINBYTES8] {
        let cut = new().op(opcode).raw(&u64::MAX.to_le_bytes()).run().unwrap_err();
        assert!(matches!(cut, PickleError::Truncated { .. }), "{cut}");
    }
    // A memo slot far out does not make a table that long.
    let far = new().op(op::NONE).op(op::LONG_BINPUT).raw(&u32::MAX.to_le_bytes());
    assert!(far.run().is_ok());
}

#[test]
fn tensors_are_checked() {
    let good = new().tensor(0, &[2, 3], &[3, 1]).run().unwrap();
    assert!(
        matches!(good.0.get(good.1), Object::Tensor(view) if view.shape == [2, 3] && view.strides == [3, 1])
    );
    new().tensor(-1, &[2], &[1]).complains("storage offset -1 is negative");
    new().tensor(0, &[-2], &[1]).complains("size -2 is negative");
    new().tensor(0, &[2], &[-1]).complains("stride -1 is negative");
    new().tensor(0, &[2, 2], &[1]).complains("2 sizes and 1 strides");
    new().tensor(0, &[1; 17], &[1; 17]).complains("17 dimensions");
    new().storage(-1).complains("storage length -1 is negative");
    let module = new().op(op::MARK).text("module").op(op::NONE).op(op::TUPLE).op(op::BINPERSID);
    module.complains("a whole pickled module");
    let short = new().op(op::MARK).text("storage").op(op::TUPLE).op(op::BINPERSID);
    short.complains("described by 1 parts");
    let untyped = new().op(op::MARK).text("storage").text("FloatStorage").text("0").text("cpu").int(1);
    untyped.op(op::TUPLE).op(op::BINPERSID).complains("whose type is a string");
    let function = new().global("torch._utils", "_rebuild_tensor_v2");
    function.clone().op(op::EMPTY_TUPLE).op(op::REDUCE).complains("0 arguments");
    let no_storage = function.op(op::MARK).int(0).int(0).ints(&[]).ints(&[]).op(op::NONE).op(op::NONE);
    no_storage.op(op::TUPLE).op(op::REDUCE).complains("a tensor made of an integer");
}

#[test]
fn parameters_are_their_tensors() {
    for (name, extra) in [("_rebuild_parameter", 2), ("_rebuild_parameter_with_state", 3)] {
        let call = new().global("torch._utils", name).op(op::MARK).tensor(0, &[2], &[1]);
        let call = (0..extra).fold(call, |writer, _| writer.op(op::NONE)).op(op::TUPLE).op(op::REDUCE);
        let (heap, root) = call.run().unwrap();
        assert!(matches!(heap.get(root), Object::Tensor(view) if view.shape == [2]));
    }
    let other = new().global("torch._utils", "_rebuild_parameter").int(1).op(op::NONE).op(op::NONE);
    other.op(op::TUPLE3).op(op::REDUCE).complains("a parameter made of an integer");
}

#[test]
fn dictionaries_of_python_2_are_read() {
    let entry = new().op(op::EMPTY_LIST).op(op::MARK).text("key").int(7).op(op::APPENDS);
    let list = new().op(op::EMPTY_LIST).raw(&entry.0).op(op::APPEND);
    let call = new().global("collections", "OrderedDict").raw(&list.0).op(op::TUPLE1).op(op::REDUCE);
    let (heap, root) = call.run().unwrap();
    let Object::Dict(entries) = heap.get(root) else { panic!("{:?}", heap.get(root)) };
    let [(key, value)] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!((heap.get(*key), heap.get(*value)), (&Object::Str("key".into()), &Object::Int(7)));
}

#[test]
fn numbers_are_read_in_every_spelling() {
    for (writer, expected) in [
        (new().op(op::INT).raw(b"-7\n"), Object::Int(-7)),
        (new().op(op::INT).raw(b"01\n"), Object::Bool(true)),
        (new().op(op::LONG).raw(b"123456789012345678901L\n"), Object::Int(123_456_789_012_345_678_901)),
        (new().op(op::LONG1).raw(&[0]), Object::Int(0)),
        (new().op(op::LONG1).raw(&[1, 0xff]), Object::Int(-1)),
        (new().op(op::LONG1).raw(&[2, 0xff, 0x00]), Object::Int(255)),
        (new().op(op::BININT).raw(&(-2i32).to_le_bytes()), Object::Int(-2)),
        (new().op(op::BININT2).raw(&[0xff, 0xff]), Object::Int(65535)),
        (new().op(op::BINFLOAT).raw(&1.5f64.to_be_bytes()), Object::Float(1.5)),
        (new().op(op::FLOAT).raw(b"-2.5e3\n"), Object::Float(-2500.0)),
        (new().op(op::STRING).raw(b"'it'\n"), Object::Str("it".into())),
        (new().op(op::UNICODE).raw(b"it\n"), Object::Str("it".into())),
    ] {
        let (heap, root) = writer.run().unwrap();
        assert_eq!(*heap.get(root), expected);
    }
}

#[test]
fn depth_and_cycles_cost_no_recursion() {
    // A million tuples, each around the last; then a list that contains itself. Both are dropped here too.
    let deep = (0..1_000_000).fold(new().op(op::NONE), |writer, _| writer.op(op::TUPLE1));
    assert!(deep.run().is_ok());
    assert!(new().op(op::EMPTY_LIST).op(op::DUP).op(op::APPEND).run().is_ok());
}

#[test]
fn shared_containers_cannot_be_copied_without_end() {
    // One list of many pairs, made into dictionaries over and over.
    let pairs =
        (0..20_000).fold(new().op(op::MARK), |writer, _| writer.op(op::NONE).op(op::NONE).op(op::TUPLE2));
    let start =
        pairs.op(op::LIST).op(op::TUPLE1).put(0).op(op::POP).global("collections", "OrderedDict").put(1);
    let bomb = (0..500).fold(start.op(op::POP), |writer, _| writer.get(1).get(0).op(op::REDUCE).op(op::POP));
    bomb.op(op::NONE).complains("too many values");
}

#[test]
fn every_cut_is_an_error() {
    let whole =
        new().op(op::PROTO).raw(&[2]).op(op::EMPTY_DICT).text("w").tensor(1, &[2], &[1]).op(op::SETITEM);
    let bytes = whole.op(op::STOP).0;
    assert!(run(&mut Reader::new(&bytes), Dialect::Zip).is_ok());
    for end in 0..bytes.len() {
        let error = run(&mut Reader::new(&bytes[..end]), Dialect::Zip).unwrap_err();
        assert!(matches!(error, PickleError::Truncated { .. }), "cut at {end}: {error}");
    }
}
