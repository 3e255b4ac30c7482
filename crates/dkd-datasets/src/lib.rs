//! CIFAR-10, CIFAR-100 and generated images: reading, download, augmentation and batches
