//! What is in the files. That they compute the right logits is the task of `tests/onnx.rs`.

use super::proto::{GraphProto, TensorProto};
use super::*;
use candle_core::{DType, Device};
use dkd_engine::{Conv2d, GraphBuilder, Linear, Pool, ValueId};

fn graph(record: impl FnOnce(&mut GraphBuilder, ValueId) -> ValueId) -> Graph {
    let mut b = GraphBuilder::new(2, 4, 4);
    let x = b.input();
    let x = record(&mut b, x);
    let x = b.global_avg_pool(x);
    let x = b.dropout(x, "drop", 0.5);
    let x = b.linear(x, Linear::new("fc", 3));
    b.build(x).unwrap()
}

/// A convolution, its batch norm and a ReLU.
fn small() -> Graph {
    graph(|b, x| {
        let x = b.conv2d(x, Conv2d::new("conv", 4, 3).padding(1));
        let x = b.batch_norm(x, "bn");
        b.relu(x)
    })
}

fn weights(graph: &Graph) -> HashMap<String, Tensor> {
    let tensor = |p: &dkd_engine::ParamSpec| {
        Tensor::from_vec(p.initial_values(1), p.shape.as_slice(), &Device::Cpu).unwrap()
    };
    graph.params().iter().map(|p| (p.name.clone(), tensor(p))).collect()
}

fn set(weights: &mut HashMap<String, Tensor>, name: &str, values: &[f32]) {
    let shape = weights[name].shape().clone();
    weights.insert(name.to_owned(), Tensor::from_slice(values, shape, &Device::Cpu).unwrap());
}

fn options(fold_batch_norm: bool) -> OnnxOptions {
    OnnxOptions { fold_batch_norm, ..OnnxOptions::new("small") }
}

fn decode(bytes: &[u8]) -> (ModelProto, GraphProto) {
    let model = ModelProto::decode(bytes).unwrap();
    let graph = model.graph.clone().unwrap();
    (model, graph)
}

fn export(graph: &Graph, fold: bool) -> GraphProto {
    decode(&to_onnx(graph, &weights(graph), &options(fold)).unwrap()).1
}

fn kinds(graph: &GraphProto) -> Vec<&str> {
    graph.node.iter().map(|n| n.op_type.as_str()).collect()
}

fn floats<'a>(graph: &'a GraphProto, name: &str) -> (&'a TensorProto, Vec<f32>) {
    let tensor = graph.initializer.iter().find(|t| t.name == name).unwrap();
    let (values, rest) = tensor.raw_data.as_chunks();
    assert!(rest.is_empty() && tensor.data_type == proto::FLOAT);
    (tensor, values.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

#[test]
fn nodes_and_constants() {
    let (network, got) = (small(), export(&small(), false));
    assert_eq!(
        kinds(&got),
        ["Conv", "BatchNormalization", "Relu", "GlobalAveragePool", "Flatten", "Gemm"],
        "dropout is left out"
    );
    let names: Vec<&str> = got.initializer.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, network.params().iter().map(|p| p.name.as_str()).collect::<Vec<_>>());
    let weights = weights(&network);
    for p in network.params() {
        let (tensor, values) = floats(&got, &p.name);
        assert_eq!(tensor.dims, p.shape.iter().map(|d| *d as i64).collect::<Vec<_>>(), "{}", p.name);
        assert_eq!(values, weights[&p.name].flatten_all().unwrap().to_vec1::<f32>().unwrap(), "{}", p.name);
    }
    assert_eq!(got.node[0].input, ["images", "conv.weight"]);
    assert_eq!(got.node[1].input, ["conv/1", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]);
    assert_eq!(got.node[5].input, ["global_avg_pool/4", "fc.weight", "fc.bias"]);
    assert_eq!(got.node[5].output, ["logits"]);
    let ints = |node: usize, name: &str| {
        got.node[node].attribute.iter().find(|a| a.name == name).unwrap().ints.clone()
    };
    assert_eq!([ints(0, "kernel_shape"), ints(0, "strides")], [[3, 3], [1, 1]]);
    assert_eq!(ints(0, "pads"), [1, 1, 1, 1]);
}

#[test]
fn the_number_of_images_is_free() {
    let got = export(&small(), false);
    let dims = |value: &proto::ValueInfoProto| {
        let tensor = value.r#type.clone().unwrap().tensor_type.unwrap();
        assert_eq!(tensor.elem_type, proto::FLOAT);
        let dims = tensor.shape.unwrap().dim.into_iter();
        let dims = dims.map(|d| d.dim_param.unwrap_or_else(|| d.dim_value.unwrap().to_string()));
        (value.name.clone(), dims.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(dims(&got.input[0]), ("images".to_owned(), "N 2 4 4".to_owned()));
    assert_eq!(dims(&got.output[0]), ("logits".to_owned(), "N 3".to_owned()));
}

#[test]
fn folding_is_arithmetic_in_f64() {
    let graph = graph(|b, x| {
        let x = b.conv2d(x, Conv2d::new("conv", 2, 1).bias());
        b.batch_norm(x, "bn")
    });
    let mut weights = weights(&graph);
    for (name, values) in [
        ("conv.weight", &[2.0, -1.0, 0.5, 3.0][..]),
        ("conv.bias", &[1.0, 0.0]),
        ("bn.weight", &[3.0, 0.1]),
        ("bn.bias", &[0.5, -2.0]),
        ("bn.running_mean", &[4.0, 1.0]),
        ("bn.running_var", &[0.25, 1e-6]),
    ] {
        set(&mut weights, name, values);
    }
    let (_, got) = decode(&to_onnx(&graph, &weights, &options(true)).unwrap());
    assert_eq!(kinds(&got), ["Conv", "GlobalAveragePool", "Flatten", "Gemm"]);
    assert_eq!(got.node[0].input, ["images", "conv.weight", "conv.bias"]);
    let scale = [3.0 / 0.25001_f64.sqrt(), 0.1 / 1.1e-5_f64.sqrt()];
    let want = [2.0 * scale[0], -scale[0], 0.5 * scale[1], 3.0 * scale[1]];
    let bias = [-3.0 * scale[0] + 0.5, -scale[1] - 2.0];
    for (name, want) in [("conv.weight", &want[..]), ("conv.bias", &bias)] {
        let (_, got) = floats(&got, name);
        let near = got.iter().zip(want).all(|(g, w)| (f64::from(*g) - w).abs() <= 1e-7 * w.abs());
        assert!(near && got.len() == want.len(), "{name}: {got:?} instead of {want:?}");
    }
    assert!(got.initializer.iter().all(|t| !t.name.starts_with("bn.")));
}

#[test]
fn only_layers_with_one_reader_take_a_batch_norm() {
    let twice = graph(|b, x| {
        let x = b.conv2d(x, Conv2d::new("conv", 4, 1));
        let y = b.batch_norm(x, "bn");
        b.add(x, y)
    });
    let pooled = graph(|b, x| {
        let x = b.conv2d(x, Conv2d::new("conv", 4, 1));
        let x = b.max_pool(x, Pool::new(2));
        b.batch_norm(x, "bn")
    });
    let second = graph(|b, x| {
        let x = b.conv2d(x, Conv2d::new("conv", 4, 1));
        let x = b.batch_norm(x, "bn1");
        b.batch_norm(x, "bn2")
    });
    for graph in [twice, pooled, second] {
        assert_eq!(kinds(&export(&graph, true)).iter().filter(|k| **k == "BatchNormalization").count(), 1);
    }
    // A loss's view of a value is no reader, and neither is dropout.
    let seen = graph(|b, x| {
        let x = b.conv2d(x, Conv2d::new("conv", 4, 1));
        b.tap("seen", x);
        let x = b.dropout(x, "dropout", 0.5);
        b.batch_norm(x, "bn")
    });
    assert!(!kinds(&export(&seen, true)).contains(&"BatchNormalization"));
}

#[test]
fn what_no_logit_needs_is_left_out() {
    let graph = graph(|b, x| {
        let side = b.conv2d(x, Conv2d::new("side", 4, 1));
        b.tap("feats", side);
        b.relu(x)
    });
    let mut weights = weights(&graph);
    weights.remove("side.weight");
    let (_, got) = decode(&to_onnx(&graph, &weights, &options(false)).unwrap());
    assert_eq!(kinds(&got), ["Relu", "GlobalAveragePool", "Flatten", "Gemm"]);
}

#[test]
fn names_are_unique_whatever_layers_are_called() {
    let graph = graph(|b, x| {
        let x = b.conv2d(x, Conv2d::new("relu", 4, 1).bias());
        let x = b.relu(x);
        let x = b.conv2d(x, Conv2d::new("images", 4, 1));
        let x = b.conv2d(x, Conv2d::new("logits", 4, 1));
        let x = b.channel_shuffle(x, 2);
        let x = b.relu6(x);
        b.relu6(x)
    });
    let got = export(&graph, false);
    let outputs = got.node.iter().flat_map(|n| n.output.clone());
    let all: Vec<String> =
        outputs.chain(got.initializer.iter().map(|t| t.name.clone())).chain(["images".to_owned()]).collect();
    let unique: std::collections::HashSet<&String> = all.iter().collect();
    assert_eq!(unique.len(), all.len(), "{all:?}");
}

#[test]
fn metadata_tells_what_the_file_is() {
    let graph = small();
    let full = OnnxOptions {
        labels: ["a", "b \"quoted\"", "ü"].map(str::to_owned).to_vec(),
        normalization: Some(Normalization { mean: vec![0.5, 0.25], std: vec![0.25, 0.125] }),
        input: OnnxInput::Pixels,
        ..options(false)
    };
    let bytes = to_onnx(&graph, &weights(&graph), &full).unwrap();
    assert_eq!(bytes, to_onnx(&graph, &weights(&graph), &full).unwrap());
    let (model, nodes) = decode(&bytes);
    let pairs: Vec<_> = model.metadata_props.iter().map(|p| (p.key.as_str(), p.value.as_deref())).collect();
    assert_eq!(
        pairs,
        [
            ("input", Some("pixels")),
            ("labels", Some(r#"["a","b \"quoted\"","ü"]"#)),
            ("model", Some("small")),
            ("normalization", Some(r#"{"mean":[0.5,0.25],"std":[0.25,0.125]}"#)),
            ("num_classes", Some("3")),
        ]
    );
    assert_eq!((model.producer_name.as_str(), model.opset_import[0].version), ("dkd", 17));
    assert_eq!(kinds(&nodes)[..3], ["Sub", "Mul", "Conv"]);
    assert_eq!(nodes.node[2].input[0], "images/normalized");
    let (mean, values) = floats(&nodes, "images/mean");
    assert_eq!((mean.dims.as_slice(), values), (&[1, 2, 1, 1][..], vec![127.5, 63.75]));
    assert_eq!(floats(&nodes, "images/factor").1, [1.0 / 63.75, 1.0 / 31.875]);

    let bare = decode(&to_onnx(&graph, &weights(&graph), &options(false)).unwrap()).0;
    let keys: Vec<_> = bare.metadata_props.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["input", "model", "num_classes"]);
    assert!(bare.doc_string.contains("images of 2x4x4") && bare.doc_string.contains("normalised as in"));
}

#[test]
fn weights_that_cannot_be_are_named() {
    let graph = small();
    let message = |change: &dyn Fn(&mut HashMap<String, Tensor>), fold: bool| {
        let mut weights = weights(&graph);
        change(&mut weights);
        to_onnx(&graph, &weights, &options(fold)).unwrap_err().to_string()
    };
    let text = message(&|w| _ = w.remove("bn.running_var"), true);
    assert!(text.contains("`bn.running_var`: not among the weights") && text.contains("[4]"), "{text}");
    let text = message(&|w| _ = w.insert("fc.weight".to_owned(), w["fc.bias"].clone()), false);
    assert!(text.contains("`fc.weight`: shape [3], but the network needs [3, 4]"), "{text}");
    let half = |w: &mut HashMap<String, Tensor>| {
        let half = w["fc.bias"].to_dtype(DType::F16).unwrap();
        w.insert("fc.bias".to_owned(), half);
    };
    let text = message(&half, false);
    assert!(text.contains("`fc.bias`: elements of type F16"), "{text}");
    let text = message(&|w| set(w, "fc.bias", &[0.0, f32::NAN, 0.0]), false);
    assert!(text.contains("`fc.bias`: element 1 is NaN"), "{text}");
    let text = message(&|w| set(w, "bn.running_var", &[1.0, 1.0, 1.0, -0.5]), false);
    assert!(text.contains("`bn.running_var`: element 3 is -0.5; a variance"), "{text}");
}

#[test]
fn a_product_beyond_f32_is_noticed() {
    let graph = small();
    let mut weights = weights(&graph);
    set(&mut weights, "bn.weight", &[1.0, f32::MAX, 1.0, 1.0]);
    set(&mut weights, "bn.running_var", &[1.0, 0.0, 1.0, 1.0]);
    assert!(to_onnx(&graph, &weights, &options(false)).is_ok());
    let text = to_onnx(&graph, &weights, &options(true)).unwrap_err().to_string();
    assert!(text.contains("`conv.weight`: element 18 is") && text.contains("inf"), "{text}");
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let graph = small();
    let message = |change: &dyn Fn(&mut OnnxOptions)| {
        let mut options = options(false);
        change(&mut options);
        to_onnx(&graph, &weights(&graph), &options).unwrap_err().to_string()
    };
    let text = message(&|o| o.labels = vec!["a".to_owned(); 2]);
    assert!(text.contains("labels = 2 names for 3 classes: one for each class"), "{text}");
    assert!(message(&|o| o.model.clear()).contains("model = \"\""));
    assert!(message(&|o| o.input = OnnxInput::Pixels).contains("normalization = none"));
    for (mean, std) in
        [(vec![0.5; 3], vec![0.5; 2]), (vec![0.5; 2], vec![0.5, 0.0]), (vec![f32::NAN; 2], vec![1.0; 2])]
    {
        let n = Normalization { mean, std };
        let text = message(&|o| o.normalization = Some(n.clone()));
        assert!(text.contains("normalization = mean [") && text.contains("for 2 channels"), "{text}");
    }
    assert!(check_size(MAX_BYTES).is_ok());
    assert!(check_size(MAX_BYTES + 1).unwrap_err().to_string().contains("2147483648 bytes"));
}
