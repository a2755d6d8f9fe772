# RTMPose-t on people that the kit draws, 256x192: RTMPose-m's config, with the smaller backbone.

_base_ = ['../rtmpose-m_8xb256-420e_coco-256x192.py']

model = dict(
    backbone=dict(deepen_factor=0.167, widen_factor=0.375),
    head=dict(in_channels=384))

data_root = 'people/'

test_dataloader = dict(dataset=dict(data_root=data_root))

test_evaluator = dict(ann_file=data_root + 'annotations/person_keypoints_val2017.json')
