//! Eigenvectors of symmetric matrices, differentiable.
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor, bail};
use nalgebra::{DMatrix, SymmetricEigen};

/// Eigenvalues whose distance is below this share of the largest count as equal: the vectors' derivative is not defined there.
const EQUAL: f64 = 1e-10;

/// Orthonormal eigenvectors of symmetric matrices [B, n, n], f64, as columns in descending order of their eigenvalues; each with its
/// largest component (the first of equal ones) positive.
pub(super) fn eigenvectors(matrices: &Tensor) -> candle_core::Result<Tensor> {
    matrices.contiguous()?.apply_op1(Eigenvectors)
}

struct Eigenvectors;

/// Eigenvectors of one matrix, as columns in row-major order.
fn decompose(matrix: &[f64], n: usize) -> Vec<f64> {
    let eigen = SymmetricEigen::new(DMatrix::from_row_slice(n, n, matrix));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let mut columns = vec![0.0; n * n];
    for (to, from) in order.into_iter().enumerate() {
        let vector = eigen.eigenvectors.column(from);
        let largest = vector.iter().fold(0.0_f64, |m, v| if v.abs() > m.abs() { *v } else { m });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        vector.iter().enumerate().for_each(|(row, v)| columns[row * n + to] = sign * v);
    }
    columns
}

impl CustomOp1 for Eigenvectors {
    fn name(&self) -> &'static str {
        "eigenvectors"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (CpuStorage::F64(values), &[_, n, m]) = (storage, layout.dims()) else {
            bail!("eigenvectors need f64 matrices [B, n, n], found {:?}", layout.dims());
        };
        let (true, Some((start, end))) = (n == m && n > 0, layout.contiguous_offsets()) else {
            bail!("eigenvectors need contiguous square matrices, found {:?}", layout.dims());
        };
        let vectors = values[start..end].chunks_exact(n * n).flat_map(|matrix| {
            // The decomposition does not end for numbers that are not finite: what comes in goes out.
            if matrix.iter().all(|v| v.is_finite()) { decompose(matrix, n) } else { vec![f64::NAN; n * n] }
        });
        Ok((CpuStorage::F64(vectors.collect()), layout.shape().clone()))
    }

    /// With the vectors V, values λ and the gradient D of V: `V (F ∘ V'D) V'` with `F_ij = 1 / (λ_j - λ_i)`, 0 on the diagonal and
    /// between equal values, made symmetric.
    fn bwd(&self, matrices: &Tensor, v: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (v, matrices) = (v.detach(), matrices.detach());
        let values = (&v * matrices.matmul(&v)?)?.sum(1)?;
        let difference = values.unsqueeze(1)?.broadcast_sub(&values.unsqueeze(2)?)?;
        let limit = values.abs()?.max_keepdim(1)?.affine(EQUAL, f64::MIN_POSITIVE)?.unsqueeze(2)?;
        let apart = difference.abs()?.broadcast_gt(&limit)?.to_dtype(DType::F64)?;
        // Equal ones are divided by 1 and then left out.
        let divisor = ((&difference * &apart)? + (1.0 - &apart)?)?;
        let inner = ((v.transpose(1, 2)?.matmul(&gradient.contiguous()?)? / divisor)? * apart)?;
        let full = v.matmul(&inner)?.matmul(&v.transpose(1, 2)?)?;
        Ok(Some(((&full + full.transpose(1, 2)?)? * 0.5)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn vectors_of_a_known_matrix() {
        let m = Tensor::new(&[[[2.0_f64, 1.0], [1.0, 2.0]]], &Device::Cpu).unwrap();
        let v = eigenvectors(&m).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let h = 0.5_f64.sqrt();
        assert!((v[0] - h).abs() < 1e-12 && (v[2] - h).abs() < 1e-12, "for 3: {v:?}");
        assert!((v[1].abs() - h).abs() < 1e-12 && (v[1] + v[3]).abs() < 1e-12, "for 1: {v:?}");
    }

    #[test]
    fn equal_values_have_a_finite_gradient() {
        let m = Var::from_tensor(&Tensor::eye(3, DType::F64, &Device::Cpu).unwrap().unsqueeze(0).unwrap());
        let m = m.unwrap();
        let loss = eigenvectors(m.as_tensor()).unwrap().sqr().unwrap().sum_all().unwrap();
        let store = loss.backward().unwrap();
        let gradient = store.get(&m).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert!(gradient.iter().all(|g| *g == 0.0), "{gradient:?}");
    }
}
