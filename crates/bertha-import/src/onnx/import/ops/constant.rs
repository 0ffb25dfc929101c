//! Constants, and tensors made from shapes.

use bertha_graph::{Op, TensorData};

use super::super::context::{NodeContext, Translated};

/// The attributes that can hold the value, of which a node has one.
const FORMS: [&str; 8] = [
    "value",
    "value_float",
    "value_floats",
    "value_int",
    "value_ints",
    "sparse_value",
    "value_string",
    "value_strings",
];

pub(super) fn constant(node: &mut NodeContext) -> Translated {
    let given = FORMS.into_iter().filter(|form| node.has_attribute(form)).collect::<Vec<_>>();
    let &[form] = given.as_slice() else {
        return Err(format!("has {} of the attributes that hold a value, not one", given.len()).into());
    };
    let data = match form {
        "value" => node.tensor("value")?,
        "value_float" => node.float("value_float")?.map(TensorData::scalar),
        "value_floats" => node.floats("value_floats")?.map(TensorData::vector),
        "value_int" => node.int("value_int")?.map(TensorData::scalar),
        "value_ints" => node.ints("value_ints")?.map(TensorData::vector),
        "sparse_value" => return Err("sparse tensors are not supported; store the value densely".into()),
        _ => return Err("strings are not supported".into()),
    };
    let data = data.ok_or_else(|| format!("attribute `{form}` is empty"))?;
    node.emit_constant(data)
}

pub(super) fn constant_of_shape(node: &mut NodeContext) -> Translated {
    let value = node.tensor("value")?.unwrap_or_else(|| TensorData::vector(vec![0f32]));
    if value.len() != 1 {
        return Err(format!("attribute `value` has {} elements, not one", value.len()).into());
    }
    node.emit_plain(Op::ConstantOfShape { value })
}

/// Part of the dimensions can be asked for since version 15.
pub(super) fn shape(node: &mut NodeContext) -> Translated {
    let (start, end) =
        if node.opset >= 15 { (node.int_or("start", 0)?, node.int("end")?) } else { (0, None) };
    node.emit_plain(Op::Shape { start, end })
}

pub(super) fn range(node: &mut NodeContext) -> Translated {
    if node.opset >= 27 {
        let stash_type = node.int_or("stash_type", 1)?;
        if stash_type != 1 {
            return Err(
                format!("attribute `stash_type` is {stash_type}: values are only made in f32 (1)").into()
            );
        }
    }
    node.emit_plain(Op::Range)
}
