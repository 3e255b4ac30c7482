//! Layouts and images as they occur.

use super::*;
use image::{Rgb, RgbImage};
use std::fs::{create_dir_all, write};

/// A picture of one colour.
fn picture(path: &Path, side: u32, colour: [u8; 3]) {
    create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(side, side, Rgb(colour)).save_with_format(path, image::ImageFormat::Png).unwrap();
}

/// Two classes, two training images and a test image of each.
fn example() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (class, value) in [("cat", 10), ("dog", 200)] {
        for (split, n) in [("train", 2), ("test", 1)] {
            for i in 0..n {
                picture(&folder.path().join(format!("{split}/{class}/{i}.png")), 4, [value, i, 0]);
            }
        }
    }
    folder
}

fn message(folder: &Path, size: Option<Size>) -> String {
    read(folder, size).unwrap_err().to_string()
}

#[test]
fn a_folder_for_each_class() {
    let folder = example();
    write(folder.path().join("train/cat/notes.txt"), "no image").unwrap();
    write(folder.path().join("train/cat/.hidden.png"), "no image either").unwrap();
    let data = read(folder.path(), None).unwrap();
    assert_eq!(data.class_names, ["cat", "dog"]);
    assert_eq!((&data.train.labels[..], &data.test.labels[..]), (&[0, 0, 1, 1][..], &[0, 1][..]));
    assert_eq!((data.train.height, data.train.width), (4, 4));
    assert_eq!(&data.train.image(3)[..3], [200, 1, 0]);
    let n = data.normalization;
    assert!((n.mean[0] - 105.0 / 255.0).abs() < 1e-6 && (n.std[0] - 95.0 / 255.0).abs() < 1e-6);
    assert_eq!((n.mean[2], n.std[2]), (0.0, 1.0), "a channel without contrast stays as it is");
    let large = read(folder.path(), Some((8, 6))).unwrap();
    assert_eq!((large.train.height, large.train.width, large.train.image_bytes()), (8, 6, 144));
}

#[test]
fn tiny_imagenet() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    picture(&at("train/n02/images/n02_0.JPEG"), 4, [1, 1, 1]);
    picture(&at("train/n01/images/n01_0.JPEG"), 4, [2, 2, 2]);
    picture(&at("val/images/val_0.JPEG"), 4, [3, 3, 3]);
    picture(&at("test/images/test_0.JPEG"), 4, [4, 4, 4]);
    write(at("val/val_annotations.txt"), "val_0.JPEG\tn02\t0\t0\t3\t3\n").unwrap();
    write(at("words.txt"), "n01\tgoldfish, Carassius auratus\nn99\tother\n").unwrap();
    let data = read(folder.path(), None).unwrap();
    assert_eq!(data.class_names, ["goldfish", "n02"]);
    assert_eq!((data.test.labels.clone(), data.test.image(0)[0]), (vec![1], 3));
    write(at("val/val_annotations.txt"), "val_0.JPEG\tn03\n").unwrap();
    let message = message(folder.path(), None);
    assert!(message.contains("line 1") && message.contains("`n03` is no class"), "{message}");
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = example();
    let at = |name: &str| folder.path().join(name);
    picture(&at("train/dog/9.png"), 5, [0; 3]);
    let odd = message(folder.path(), None);
    assert!(odd.contains("9.png") && odd.contains("5x5") && odd.contains("data.image_size"), "{odd}");
    assert_eq!(read(folder.path(), Some((4, 4))).unwrap().train.len(), 5);
    write(at("train/dog/8.png"), "text").unwrap();
    let broken = message(folder.path(), Some((4, 4)));
    assert!(broken.contains("8.png`: no PNG, JPEG or WebP"), "{broken}");
    (0..7).for_each(|i| write(at(&format!("train/cat/x{i}.png")), "text").unwrap());
    let many = message(folder.path(), Some((4, 4)));
    assert!(many.contains("8 images") && many.contains("x0.png") && many.contains("and 3 more"), "{many}");
}

#[test]
fn layouts_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(message(folder.path(), None).contains("no folder `train`"));
    create_dir_all(folder.path().join("train")).unwrap();
    assert!(message(folder.path(), None).contains("one for each class"));
    create_dir_all(folder.path().join("train/cat")).unwrap();
    assert!(message(folder.path(), None).contains("holds no image"));
    picture(&folder.path().join("train/cat/0.png"), 4, [0; 3]);
    assert!(message(folder.path(), None).contains("neither a folder `test` nor `val`"));
    picture(&folder.path().join("test/cap/0.png"), 4, [0; 3]);
    let wrong = message(folder.path(), None);
    assert!(wrong.contains("`cap` is no class") && wrong.contains("nearest is `cat`"), "{wrong}");
}
