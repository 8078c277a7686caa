"""SPICE from its parts, without the pipeline: python examples/spice_in_100_lines.py [EPOCHS]

The true digits are used in the last lines only, to say how well it went.
"""

import sys

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from spiceclust.data.datasets import digits
from spiceclust.data.views import Views
from spiceclust.functional.contrast import enqueue, info_nce
from spiceclust.functional.fixmatch import fixmatch_loss, fixmatch_schedule
from spiceclust.functional.metrics import score_clusters
from spiceclust.functional.neighbors import nearest_neighbors
from spiceclust.functional.prototypes import balanced_quotas, double_softmax_loss, labels_of, prototypes, pseudo_labels
from spiceclust.functional.reliable import agreement, choose_k, consistency, select_reliable
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import Classifier, ClusterHeads, build_projection
from spiceclust.models.momentum import MomentumModel
from spiceclust.outputs.evaluate import digits_labels

C, B, Q = 10, 64, 448  # clusters, batch, queue
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
draws = torch.Generator().manual_seed(0)
views = Views("glyph")
large = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)) for image in digits()]
images = torch.from_numpy(np.stack(large))[:, None]  # (N, 1, 16, 16) uint8
N = len(images)

# Stage 1, MoCo v2: two views of an image lie close, views of other images far.
encoder = build_encoder("resnet_small", 1, 16, mean=[0.3], std=[0.35], seed=0)
query_model = nn.Sequential(encoder, build_projection(encoder.n_features, 128, seed=0))
key_model = MomentumModel(query_model, 0.95)
queue = F.normalize(torch.randn(Q, 128, generator=draws), dim=1)
optimizer = torch.optim.SGD(query_model.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (N // B))
for epoch in range(epochs):
    for step, rows in enumerate(torch.randperm(N, generator=draws)[: N // B * B].split(B)):
        queries = F.normalize(query_model(views.contrastive(images[rows], draws)), dim=1)
        keys = F.normalize(key_model(views.contrastive(images[rows], draws)), dim=1)
        loss = info_nce(queries, keys, queue.clone(), temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        key_model.update()
        enqueue(queue, keys, epoch * (N // B) + step)
    print(f"epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}")
# Every image, and eight weak and strong views of it, through the frozen encoder once.
encoder.eval()
with torch.no_grad():
    plain = F.normalize(encoder(views.plain(images)), dim=1)
    weak = torch.stack([F.normalize(encoder(views.weak(images, draws)), dim=1) for _ in range(8)])
    strong = torch.stack([F.normalize(encoder(views.strong(images, draws)), dim=1) for _ in range(8)])
# Stage 2, SPICE-Self: ten heads learn from the labels that prototypes give to their nearest images.
heads = ClusterHeads(10, encoder.n_features, C, seed=0)
optimizer = torch.optim.Adam(heads.parameters(), lr=0.005)
clusters = labels_of(quotas := balanced_quotas(1000, C))
for step in range(100):
    meta = torch.randperm(N, generator=draws)[:1000]
    with torch.no_grad():
        confident = heads(weak[step % 8, meta]).softmax(dim=2)
    assigned = meta[pseudo_labels(plain[meta], prototypes(plain[meta], confident, quotas, ratio=0.5), quotas)]
    for part in torch.randperm(len(clusters), generator=draws).split(128):
        loss = double_softmax_loss(heads(strong[step % 8, assigned[:, part]]), clusters[part].expand(10, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
# The head whose labels the neighbours agree with most, and its reliable labels.
neighbors, _ = nearest_neighbors(plain, 80)
with torch.no_grad():
    probabilities = heads(plain).softmax(dim=2)
best = max(range(10), key=lambda head: consistency(probabilities[head].argmax(1), neighbors[:, :20], C))
confidence, labels = probabilities[best].max(dim=1)
agreements = agreement(labels, neighbors[:, : choose_k(labels, neighbors, 0.95)])
reliable = select_reliable(labels, confidence, agreements, C, threshold=0.95, floor=0.1).nonzero().squeeze(1)
# Stage 3, SPICE-Semi: FixMatch from the reliable labels; the moving average teaches, and is the result.
classifier = Classifier(encoder, heads.extract(best)).train()
teacher = MomentumModel(classifier, 0.97)
optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: fixmatch_schedule(step, 350))
for _ in range(350):
    known = reliable[torch.randint(len(reliable), (32,), generator=draws)]
    others = torch.randint(N, (96,), generator=draws)
    taught = teacher(views.weak(images[others], draws))
    seen = classifier(torch.cat([views.weak(images[known], draws), views.strong(images[others], draws)]))
    loss = fixmatch_loss(seen[:32], labels[known], taught, seen[32:], threshold=0.95, unlabelled_weight=1.0).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    teacher.update()
found = teacher(views.plain(images)).argmax(dim=1).numpy()
print(f"accuracy: SPICE-Self {score_clusters(labels.numpy(), digits_labels()).acc:.3f}, ", end="")
print(f"with SPICE-Semi {score_clusters(found, digits_labels()).acc:.3f}")
