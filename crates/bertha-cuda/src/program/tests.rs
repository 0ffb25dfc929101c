//! What lowering refuses, on graphs that the type rules accept.

use bertha_graph::{
    Attention, DType, Dim, Graph, GraphBuilder, GraphError, TensorData, TensorId, Weight, ragged, shape,
};

use super::*;
use crate::arch::Arch;
use crate::kernels::{Launch, LaunchArg, Operand, Rows, Setting};

/// A graph over ids and offsets with the output that `body` makes of them.
pub(super) fn graph(
    body: impl FnOnce(&mut GraphBuilder, TensorId, TensorId) -> Result<TensorId, GraphError>,
) -> Graph {
    let mut b = GraphBuilder::new("refused");
    let ids = b.input(ragged::INPUT_IDS, DType::I32, shape!["tokens"]).unwrap();
    let cu_seqlens = b.input(ragged::CU_SEQLENS, DType::I32, shape![Dim::from("batch") + 1]).unwrap();
    let y = body(&mut b, ids, cu_seqlens).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

pub(super) fn table(b: &mut GraphBuilder, rows: usize, width: usize) -> TensorId {
    b.constant(TensorData::from_vec(vec![rows, width], vec![0.5f32; rows * width]).unwrap()).unwrap()
}

fn refusal(graph: &Graph) -> String {
    lower(graph, Precision::F16, Arch::Sm90a).unwrap_err().to_string()
}

#[test]
fn attentions_of_one_shape_are_lowered_and_those_of_two_refused() {
    let twice = |second: usize| {
        graph(|b, ids, cu_seqlens| {
            let table = table(b, 3, 64);
            let x = b.embedding(ids, table)?;
            let y = b.attention(x, x, x, &Attention::ragged(cu_seqlens, 2))?;
            b.named("second").attention(y, y, y, &Attention::ragged(cu_seqlens, second))
        })
    };
    lower(&twice(2), Precision::F16, Arch::Sm90a).unwrap();
    let why = refusal(&twice(4));
    assert!(why.contains("`second`") && why.contains("attentions of different shapes"), "{why}");
}

#[test]
fn ids_that_are_not_one_for_each_token_are_refused() {
    let why = refusal(&graph(|b, _, cu_seqlens| {
        let table = table(b, 3, 64);
        b.embedding_sum(&[(cu_seqlens, table)])
    }));
    assert!(why.contains("ids that are not one for each token"), "{why}");
}

#[test]
fn rows_of_no_features_are_refused_before_anything_is_made_for_them() {
    let why = refusal(&graph(|b, ids, _| {
        let table = table(b, 3, 0);
        b.embedding_sum(&[(ids, table)])
    }));
    assert!(why.contains("rows of no features"), "{why}");
    // A bias of 2^60 zeros would be made for this layer.
    let why = refusal(&graph(|b, ids, _| {
        let table = table(b, 3, 8);
        let x = b.embedding_sum(&[(ids, table)])?;
        let nothing = b.slice(x, 1, 0, 0)?;
        let weight = b.constant(TensorData::from_vec(vec![1 << 60, 0], Vec::<f32>::new()).unwrap())?;
        b.linear(nothing, Weight::out_in(weight), None)
    }));
    assert!(why.contains("rows of no features"), "{why}");
}

#[test]
fn slices_of_nothing_are_lowered() {
    let graph = graph(|b, ids, _| {
        let table = table(b, 3, 8);
        let x = b.embedding_sum(&[(ids, table)])?;
        let nothing = b.slice(x, 1, 0, 0)?;
        let mut bound = |value: i64| b.constant(TensorData::vector(vec![value]));
        let (start, end, axis, step) = (bound(-1)?, bound(i64::MIN)?, bound(1)?, bound(-1)?);
        b.node(bertha_graph::Op::Slice, &[nothing, start, end, axis, step].map(Some))
    });
    lower(&graph, Precision::F32, Arch::Sm90a).unwrap();
}

#[test]
fn outputs_have_the_type_of_their_bytes() {
    let graph = graph(|b, ids, _| {
        let table = b.constant(TensorData::from_vec(vec![3, 8], vec![half::f16::ONE; 24]).unwrap())?;
        b.embedding_sum(&[(ids, table)])
    });
    assert_eq!(graph.dtype(graph.outputs()[0].1), DType::F16);
    for precision in Precision::ALL {
        assert_eq!(lower(&graph, precision, Arch::Sm90a).unwrap().outputs[0].dtype, DType::F32);
    }
}

/// A dense graph's program for `[2, 6]` ids.
fn dense(body: impl FnOnce(&mut GraphBuilder, TensorId) -> Result<TensorId, GraphError>) -> Program {
    let mut b = GraphBuilder::new("dense");
    let ids = b.input("ids", DType::I64, shape!["batch", "seq"]).unwrap();
    let y = body(&mut b, ids).unwrap();
    b.output("y", y).unwrap();
    let graph = b.finish().unwrap();
    let ids = bertha_graph::TensorType::new(DType::I64, shape![2usize, 6usize]);
    let case = graph.specialize(&[ids]).unwrap();
    lower_case(&case, Some(&graph), Precision::F16, Arch::Sm90a).unwrap()
}

#[test]
fn embeddings_of_dense_graphs_are_summed_and_then_normalised() {
    let program = dense(|b, ids| {
        let (words, more) = (table(b, 5, 64), table(b, 7, 64));
        let row = b.constant(TensorData::vector(vec![1f32; 64]))?;
        let op = bertha_graph::Op::EmbeddingLayerNorm { epsilon: 1e-5 };
        b.named("embeddings").node(op, &[ids, words, ids, more, row, row].map(Some))
    });
    let [sum, norm] = program.steps.as_slice() else { panic!("{:?}", program.steps) };
    let (CudaStep::Generated(sum), CudaStep::LayerNorm { x, y, norm, width, rows }) = (&sum.step, &norm.step)
    else {
        panic!("{sum:?} {norm:?}")
    };
    assert_eq!((*x, *width, *rows, norm.epsilon), (sum.y, 64, Rows::Fixed(12), 1e-5));
    assert_eq!(program.outputs[0].tensor, *y);
    assert_ne!(x, y);
    // Rows as the norm reads them, results as they are handed out.
    assert_eq!([*x, *y].map(|tensor| program.tensors[tensor].storage), [Storage::F16, Storage::F32]);
    // Ids outside of each table are told of.
    assert_eq!(program.dense.unwrap().faults, ["embeddings"]);
    assert!(sum.has_fault && sum.inputs.len() == 4);
}

#[test]
fn pieces_that_nobody_reads_have_no_step_and_move_no_other() {
    // The first element of each piece in a row of 10: sizes that are given, and equal ones, rounded up.
    for (sizes, start) in [(Some(vec![1i64, 2, 3, 4]), 6), (None, 9)] {
        let program = dense(|b, ids| {
            let table = table(b, 5, 10);
            let x = b.embedding_sum(&[(ids, table)])?;
            let parts = match sizes {
                Some(sizes) => b.split(x, -1, &sizes)?,
                None => {
                    let op = bertha_graph::Op::Split { axis: 2, parts: 4 };
                    b.nodes(op, &[Some(x)], 4)?
                }
            };
            Ok(parts[3])
        });
        let pieces: Vec<&Generated> = program
            .steps
            .iter()
            .filter_map(|step| match &step.step {
                CudaStep::Generated(generated) if generated.name == "split" => Some(generated),
                _ => None,
            })
            .collect();
        let [piece] = pieces.as_slice() else { panic!("{pieces:?}") };
        let kernel = piece.kernel.generated.as_deref().unwrap();
        let at = kernel.split("(d2 + a").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
        assert_eq!(piece.numbers[at.parse::<usize>().unwrap()], start, "{kernel}");
    }
}

mod plugins {
    use bertha_graph::interp::F64Tensor;
    use bertha_graph::plugin::{
        CudaSource, Declaration, Field, FieldSpec, Fields, Parallel, Plugin, PluginSet, TensorView,
        TensorViewMut,
    };
    use bertha_graph::{Node, Op};

    use super::*;

    struct Scale {
        row_wise: bool,
        signature: &'static str,
        has_source: bool,
    }

    impl Plugin for Scale {
        fn declaration(&self) -> Declaration {
            Declaration {
                name: "Scale".into(),
                version: 3,
                op_type: "Scale".into(),
                signature: self.signature.into(),
                // Not in the order of their names.
                fields: vec![
                    FieldSpec::with_default("times", Field::Int(7)),
                    FieldSpec::with_default("label", Field::Text("x".into())),
                    FieldSpec::with_default("by", Field::Float(0.25)),
                ],
                row_wise: self.row_wise,
                ..Declaration::default()
            }
        }

        fn reference(&self, _: &Fields, _: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
            Err("nobody asks for it here".into())
        }

        fn run(
            &self,
            _: &Fields,
            _: &[Option<TensorView<'_>>],
            _: &mut [Option<TensorViewMut<'_>>],
            _: &mut dyn Parallel,
        ) -> Result<(), String> {
            Err("nobody asks for it here".into())
        }

        fn cuda(&self) -> Option<CudaSource> {
            let source = CudaSource {
                source: "// a kernel".into(),
                entry: "scale_{T}".into(),
                block: 128,
                items: "rows*width".into(),
                items_per_block: 1000,
                shared_bytes: 64,
            };
            self.has_source.then_some(source)
        }
    }

    const SIGNATURE: &str = "x: T[...rows, width], gamma: T[width], shift?: f32[width] -> y: T[...rows, width], means: f32[...rows]; T = f32 | f16";

    fn scaled(plugin: Scale) -> Graph {
        let def = PluginSet::new().add(plugin).unwrap();
        graph(|b, ids, _| {
            let table = table(b, 3, 64);
            let x = b.embedding(ids, table)?;
            let gamma = b.constant(TensorData::vector(vec![1f32; 64]))?;
            let op = Op::Plugin(def.op(Default::default()).unwrap());
            b.named("scaled").node(op, &[Some(x), Some(gamma)])
        })
    }

    fn launch(graph: &Graph, precision: Precision) -> (Program, Launch) {
        let program = lower(graph, precision, Arch::Sm90a).unwrap();
        let setting = Setting::typical(Arch::Sm90a).for_batch(50, 3, 20);
        let at = program.steps.iter().position(|step| matches!(step.step, CudaStep::Plugin(_))).unwrap();
        let launch = program.launches(&setting).remove(at);
        (program, launch)
    }

    #[test]
    fn a_plugin_is_given_operands_results_sizes_and_fields_in_the_order_of_its_contract() {
        let graph = scaled(Scale { row_wise: true, signature: SIGNATURE, has_source: true });
        let (program, launch) = launch(&graph, Precision::F16);
        let CudaStep::Plugin(step) = &program.steps[1].step else {
            panic!("the second step is the plugin's")
        };
        let [y, means] = step.results[..] else { panic!("two results") };
        assert_eq!(
            (program.tensors[y].storage, program.tensors[means].storage),
            (Storage::F16, Storage::F32)
        );
        let address = LaunchArg::Address;
        let expected = [
            address(step.operands[0].unwrap().operand()),
            address(Operand::Weight(1)),
            address(Operand::Null),
            address(Operand::Tensor(y)),
            address(Operand::Tensor(means)),
            // 50 tokens run in the bucket of 64.
            LaunchArg::Long(64),
            LaunchArg::Long(64),
            LaunchArg::Long(7),
            LaunchArg::Double(0.25),
        ];
        assert_eq!(launch.args, expected);
        assert_eq!(program.weights[1].form, WeightForm::Rows);
        let config = launch.config;
        assert_eq!((config.grid, config.block, config.shared_bytes), ([5, 1, 1], 128, 64));
        assert!(!config.overlaps, "it does not wait by itself");
        assert!(launch.kernel.to_string().starts_with("Scale@3:scale_f16#"), "{}", launch.kernel);
    }

    #[test]
    fn a_plugin_without_the_precision_gets_f32() {
        let graph = scaled(Scale { row_wise: true, signature: SIGNATURE, has_source: true });
        let (program, launch) = launch(&graph, Precision::Bf16);
        let names: Vec<&str> = program.steps.iter().map(|step| step.step.name()).collect();
        assert_eq!(names, ["embedding_sum", "cast", "plugin"]);
        assert!(launch.kernel.to_string().starts_with("Scale@3:scale_f32#"), "{}", launch.kernel);
    }

    #[test]
    fn plugins_that_cannot_run_in_a_batch_without_padding_are_refused_by_name() {
        let why = refusal(&scaled(Scale { row_wise: true, signature: SIGNATURE, has_source: false }));
        assert!(why.contains("`scaled`") && why.contains("plugin Scale without CUDA source"), "{why}");
        let why = refusal(&scaled(Scale { row_wise: false, signature: SIGNATURE, has_source: true }));
        assert!(why.contains("`scaled`") && why.contains("does not work row by row"), "{why}");
        let open = "x: T[...rows, width], gamma: T[width] -> y: T[...rows, ?]; T = f32 | f16";
        let why = refusal(&scaled(Scale { row_wise: true, signature: open, has_source: true }));
        assert!(why.contains("`scaled`") && why.contains("leaves open"), "{why}");
    }

    #[test]
    fn results_of_a_plugin_are_needed_by_who_reads_any_of_them() {
        let mut graph = scaled(Scale { row_wise: true, signature: SIGNATURE, has_source: true });
        let Node { inputs, op, .. } = graph.nodes().last().unwrap().clone();
        let again = graph.add_node("again", op, &inputs, &["", "means"]).unwrap();
        let means = graph.node(again).outputs[1].unwrap();
        graph.add_output("means", means).unwrap();
        let program = lower(&graph, Precision::F16, Arch::Sm90a).unwrap();
        let needed: Vec<u64> = program.steps.iter().map(|step| step.needed_by).collect();
        // The last step gives `y` in f32.
        assert_eq!(needed, [0b11, 0b01, 0b10, 0b01]);
    }
}
