//! The list of models and the search by name.

use crate::resnet::{Blocks, Width, four_stages, option_a, resnet};
use crate::shufflenet::{Size, v1, v2};
use crate::vgg::vgg;
use crate::wrn::wrn;
use crate::{Description, Error, ModelOptions, Result, mobilenet, resnet, seed};
use dkd_engine::Graph;
use std::path::Path;

/// One line of the list of models.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Name, as configuration files and checkpoints use it.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// Records the graph.
    pub build: fn(&ModelOptions) -> Result<Graph>,
}

impl Model {
    /// Builds the graph.
    ///
    /// # Errors
    /// Options that make no sense, image sizes that the architecture does not allow.
    pub fn build(&self, options: &ModelOptions) -> Result<Graph> {
        options.check()?;
        (self.build)(options).map_err(|e| match e {
            Error::Graph(source) => Error::Model { model: self.name.to_owned(), source },
            other => other,
        })
    }
}

/// Makes the line of a residual network.
macro_rules! resnet_line {
    ($name:literal, $depth:literal, $width:ident, $description:literal) => {
        Model { name: $name, description: $description, build: |o| resnet(o, $name, $depth, Width::$width) }
    };
}

/// Makes the line of a residual network with shortcuts of option A.
macro_rules! option_a_line {
    ($name:literal, $depth:literal, $description:literal) => {
        Model { name: $name, description: $description, build: |o| option_a(o, $depth) }
    };
}

/// Makes the line of a wide residual network.
macro_rules! wrn_line {
    ($name:literal, $depth:literal, $widen:literal, $description:literal) => {
        Model { name: $name, description: $description, build: |o| wrn(o, $name, $depth, $widen) }
    };
}

/// Makes the line of a VGG network.
macro_rules! vgg_line {
    ($name:literal, $convs:expr, $description:literal) => {
        Model { name: $name, description: $description, build: |o| vgg(o, $name, $convs) }
    };
}

/// Makes the line of a ShuffleNetV2.
macro_rules! shuffle_line {
    ($name:literal, $channels:expr, $units:expr, $description:literal) => {
        Model {
            name: $name,
            description: $description,
            build: |o| v2(o, $name, Size { channels: $channels, units: $units }),
        }
    };
}

static MODELS: &[Model] = &[
    Model {
        name: "seed_teacher",
        description: "2 convolutions, batch norm, 3 dense layers; dropout 0.15",
        build: seed::teacher,
    },
    Model {
        name: "seed_student",
        description: "2 convolutions, 2 dense layers; ReLU on the logits, as published",
        build: seed::student,
    },
    Model {
        name: "seed_student_linear",
        description: "seed_student without the ReLU on the logits",
        build: seed::student_linear,
    },
    resnet_line!("resnet8", 8, Narrow, "residual network, 8 layers, 16 to 64 channels"),
    resnet_line!("resnet14", 14, Narrow, "residual network, 14 layers, 16 to 64 channels"),
    resnet_line!("resnet20", 20, Narrow, "residual network, 20 layers, 16 to 64 channels"),
    resnet_line!("resnet32", 32, Narrow, "residual network, 32 layers, 16 to 64 channels"),
    resnet_line!("resnet44", 44, Narrow, "residual network, 44 layers, 16 to 64 channels"),
    resnet_line!("resnet56", 56, Narrow, "residual network, 56 layers, 16 to 64 channels"),
    resnet_line!("resnet110", 110, Narrow, "residual network, 110 layers, 16 to 64 channels"),
    resnet_line!("resnet8x4", 8, Wide, "residual network, 8 layers, 32 to 256 channels"),
    resnet_line!("resnet32x4", 32, Wide, "residual network, 32 layers, 32 to 256 channels"),
    option_a_line!(
        "resnet20_a",
        20,
        "He et al.'s residual network for CIFAR-10, 20 layers, shortcuts without weights"
    ),
    option_a_line!(
        "resnet32_a",
        32,
        "He et al.'s residual network for CIFAR-10, 32 layers, shortcuts without weights"
    ),
    option_a_line!(
        "resnet44_a",
        44,
        "He et al.'s residual network for CIFAR-10, 44 layers, shortcuts without weights"
    ),
    option_a_line!(
        "resnet56_a",
        56,
        "He et al.'s residual network for CIFAR-10, 56 layers, shortcuts without weights"
    ),
    option_a_line!(
        "resnet110_a",
        110,
        "He et al.'s residual network for CIFAR-10, 110 layers, shortcuts without weights"
    ),
    Model {
        name: "ResNet18",
        description: "residual network of ImageNet's size, 18 layers, 64 to 512 channels",
        build: |o| four_stages(o, Blocks::Basic([2, 2, 2, 2])),
    },
    Model {
        name: "ResNet50",
        description: "residual network of ImageNet's size, 50 layers, 256 to 2048 channels",
        build: |o| four_stages(o, Blocks::Bottleneck([3, 4, 6, 3])),
    },
    wrn_line!("wrn_16_1", 16, 1, "wide residual network, 16 layers, 16 to 64 channels"),
    wrn_line!("wrn_16_2", 16, 2, "wide residual network, 16 layers, 32 to 128 channels"),
    wrn_line!("wrn_40_1", 40, 1, "wide residual network, 40 layers, 16 to 64 channels"),
    wrn_line!("wrn_40_2", 40, 2, "wide residual network, 40 layers, 32 to 128 channels"),
    vgg_line!("vgg8", [1, 1, 1, 1, 1], "VGG with batch norm, 5 convolutions, 64 to 512 channels"),
    vgg_line!("vgg11", [1, 1, 2, 2, 2], "VGG with batch norm, 8 convolutions, 64 to 512 channels"),
    vgg_line!("vgg13", [2, 2, 2, 2, 2], "VGG with batch norm, 10 convolutions, 64 to 512 channels"),
    vgg_line!("vgg16", [2, 2, 3, 3, 3], "VGG with batch norm, 13 convolutions, 64 to 512 channels"),
    vgg_line!("vgg19", [2, 2, 4, 4, 4], "VGG with batch norm, 16 convolutions, 64 to 512 channels"),
    Model {
        name: "MobileNetV2",
        description: "MobileNetV2 of half width, expansion 6, for 32x32 images",
        build: |o| mobilenet::half(o, "MobileNetV2"),
    },
    Model {
        name: "tinyimagenet_MobileNetV2",
        description: "MobileNetV2 with ReLU6 and biases, for the 64x64 images of Tiny-ImageNet",
        build: mobilenet::tiny_imagenet,
    },
    Model {
        name: "torchvision_resnet50",
        description: "torchvision's resnet50, for large images: a 7x7 stem with stride 2 and max pooling",
        build: resnet::torchvision,
    },
    Model {
        name: "torchvision_mobilenet_v2",
        description: "torchvision's mobilenet_v2, for large images: full width, ReLU6, dropout 0.2",
        build: mobilenet::torchvision,
    },
    Model {
        name: "ShuffleV1",
        description: "ShuffleNet, 3 groups, 240 to 960 channels",
        build: |o| v1(o, "ShuffleV1"),
    },
    shuffle_line!("ShuffleV2", [116, 232, 464, 1024], [3, 7, 3], "ShuffleNetV2, 116 to 464 channels"),
    shuffle_line!("ShuffleV2_0.2", [40, 80, 160, 512], [3, 3, 3], "ShuffleNetV2, 40 to 160 channels, short"),
    shuffle_line!("ShuffleV2_0.3", [40, 80, 160, 512], [3, 7, 3], "ShuffleNetV2, 40 to 160 channels"),
    shuffle_line!("ShuffleV2_0.5", [48, 96, 192, 1024], [3, 7, 3], "ShuffleNetV2, 48 to 192 channels"),
    shuffle_line!("ShuffleV2_1.5", [176, 352, 704, 1024], [3, 7, 3], "ShuffleNetV2, 176 to 704 channels"),
    shuffle_line!("ShuffleV2_2.0", [224, 488, 976, 2048], [3, 7, 3], "ShuffleNetV2, 224 to 976 channels"),
];

/// Every model, in the order of the list.
pub fn models() -> &'static [Model] {
    MODELS
}

/// Every name, in the order of the list.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|m| m.name)
}

/// The model called `name`.
///
/// # Errors
/// [`Error::UnknownModel`], with the most similar names.
pub fn find(name: &str) -> Result<&'static Model> {
    MODELS.iter().find(|m| m.name == name).ok_or_else(|| Error::UnknownModel {
        name: name.to_owned(),
        nearest: nearest_of(name, names()),
        known: names().collect::<Vec<_>>().join(", "),
    })
}

/// Builds the model called `name`: one of the list, or the path of a [`Description`] (`.toml` or `.json`).
///
/// # Errors
/// As [`find`] and [`Model::build`], or [`Description::read`] and [`Description::build`].
pub fn build(name: &str, options: &ModelOptions) -> Result<Graph> {
    if Description::is_path(name) {
        return Description::read(Path::new(name))?.build(options);
    }
    find(name)?.build(options)
}

/// Up to three of `names` that look like `name`, best first.
pub(crate) fn nearest_of<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let plain = |s: &str| s.to_lowercase().replace(['-', '_', ' '], "");
    let asked = plain(name);
    let mut scored: Vec<(f64, &str)> =
        names.map(|n| (strsim::normalized_damerau_levenshtein(&asked, &plain(n)), n)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let similar = scored.into_iter().take_while(|(score, _)| *score >= 0.6);
    similar.take(3).map(|(_, n)| n.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_all_build() {
        let mut seen = std::collections::HashSet::new();
        for model in models() {
            assert!(seen.insert(model.name) && !model.description.is_empty());
            let graph = model.build(&ModelOptions::new(7)).unwrap();
            assert_eq!(graph.num_classes(), 7, "{}", model.name);
        }
    }

    #[test]
    fn a_wrong_name_suggests_the_nearest() {
        let message = build("ResNet-20", &ModelOptions::new(10)).unwrap_err().to_string();
        assert!(message.contains("`ResNet-20`, did you mean resnet20"), "{message}");
        let message = build("alexnet", &ModelOptions::new(10)).unwrap_err().to_string();
        assert!(!message.contains("did you mean") && message.contains("seed_student_linear"), "{message}");
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let o = ModelOptions::new(10);
        for (h, w) in [(64, 64), (28, 32), (32, 33), (1, 1)] {
            let message = build("resnet8x4", &o.image(3, h, w)).unwrap_err().to_string();
            assert!(message.contains("resnet8x4") && message.contains("from 29 to 32"), "{message}");
        }
        assert!(build("resnet8", &o.image(1, 29, 31)).is_ok());
        let message = build("seed_student", &o.image(3, 6, 6)).unwrap_err().to_string();
        assert!(message.contains("model `seed_student`: layer"), "{message}");
        assert!(build("seed_student", &o.image(3, 28, 28)).is_ok());
        let message = build("ShuffleV1", &o.image(3, 24, 32)).unwrap_err().to_string();
        assert!(message.contains("4x4") && message.contains("from 25 to 32"), "{message}");
        let message = build("MobileNetV2", &o.image(3, 48, 32)).unwrap_err().to_string();
        assert!(message.contains("multiples of 32"), "{message}");
        let message = build("vgg8", &o.image(3, 7, 32)).unwrap_err().to_string();
        assert!(message.contains("at least 8"), "{message}");
        for (name, h, w) in
            [("MobileNetV2", 64, 32), ("vgg13", 64, 64), ("ResNet18", 5, 7), ("resnet20_a", 9, 6)]
        {
            assert!(build(name, &o.image(3, h, w)).is_ok(), "{name}");
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let o = ModelOptions::new(10);
        assert!(
            build("seed_teacher", &ModelOptions::new(0)).unwrap_err().to_string().contains("num_classes")
        );
        assert!(build("seed_teacher", &o.dropout(1.0)).unwrap_err().to_string().contains("dropout = 1"));
        assert!(build("seed_teacher", &o.image(0, 32, 32)).unwrap_err().to_string().contains("0x32x32"));
    }
}
