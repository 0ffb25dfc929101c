//! The header in C and its twin in Rust have the same layout and the same numbers.

mod support;

use std::mem::offset_of;
use std::process::Command;

use bertha_plugin::DType;
use bertha_plugin::abi::*;

macro_rules! layout {
    ($name:literal $type:ty: $($member:ident $(as $c:literal)?),*) => {
        format!(
            concat!("{} {}" $(, " ", layout!(@name $member $($c)?), "={}")*),
            $name, size_of::<$type>() $(, offset_of!($type, $member))*
        )
    };
    (@name $member:ident $c:literal) => { $c };
    (@name $member:ident) => { stringify!($member) };
}

#[test]
fn structures_lie_in_memory_as_in_c() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = support::compile("tests/layout.c", &folder.path().join("layout"), &[]) else {
        return;
    };
    let output = Command::new(program).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let in_c: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
    let in_rust = [
        layout!("bertha_text" Text: data, length),
        layout!("bertha_field" FieldValue: name, kind, reserved, integer, number, text, integers, numbers, count),
        layout!("bertha_field_spec" FieldSpecTable: value, has_default, reserved, min, max, description),
        layout!("bertha_tensor" Tensor: data, shape, rank, dtype),
        layout!("bertha_call" Call: plugin, fields, field_count, inputs, input_count, outputs, output_count, message,
            message_capacity, threads, host, parallel_for, set_output),
        layout!("bertha_cuda" CudaTable: source, entry, items, block, items_per_block, shared_bytes, reserved),
        layout!("bertha_plugin" PluginTable: plugin, name, domain, op_type, signature, description, version, flags,
            fields, field_count, shapes, reference, kernel, cuda),
        layout!("bertha_library" LibraryTable: abi, sizes, plugin_count, plugins),
        format!(
            "constants abi={ABI_VERSION} absent=0 untold={UNTOLD_DTYPE} int={KIND_INT} float={KIND_FLOAT} text={KIND_TEXT} \
             ints={KIND_INTS} floats={KIND_FLOATS}{}",
            DType::ALL.map(|dtype| format!(" {dtype}={}", dtype_code(dtype))).concat()
        ),
    ];
    assert_eq!(in_c, in_rust);
}
