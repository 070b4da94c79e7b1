// Calls in calls, each with a larger frame and so another kind of stack check: small frames
// compare SP itself, large ones SP less the frame, huge ones guard against wrapping around.
//
// pushcall: entry=main·main expect=RAX:36

#include "textflag.h"

TEXT main·main(SB), 0, $16-0
	MOVQ	$1, 0(SP)
	CALL	main·small(SB)
	MOVQ	8(SP), AX
	XORL	BX, BX
	XORL	CX, CX
	XORL	DX, DX
	XORL	SI, SI
	XORL	DI, DI
	XORL	R8, R8
	XORL	R9, R9
	XORL	R10, R10
	XORL	R11, R11
	XORL	R12, R12
	XORL	R13, R13
	XORL	R15, R15
	PXOR	X0, X0
	PXOR	X1, X1
	PXOR	X2, X2
	PXOR	X3, X3
	PXOR	X4, X4
	PXOR	X5, X5
	PXOR	X6, X6
	PXOR	X7, X7
	PXOR	X8, X8
	PXOR	X9, X9
	PXOR	X10, X10
	PXOR	X11, X11
	PXOR	X12, X12
	PXOR	X13, X13
	PXOR	X14, X14
	PXOR	X15, X15
	RET

TEXT main·small(SB), 0, $64-16
	MOVQ	n+0(FP), AX
	ADDQ	$5, AX
	MOVQ	AX, 0(SP)
	CALL	main·large(SB)
	MOVQ	8(SP), AX
	MOVQ	AX, ret+8(FP)
	RET

TEXT main·large(SB), 0, $1024-16
	MOVQ	n+0(FP), AX
	ADDQ	$10, AX
	MOVQ	AX, 0(SP)
	CALL	main·huge(SB)
	MOVQ	8(SP), AX
	MOVQ	AX, ret+8(FP)
	RET

TEXT main·huge(SB), 0, $8192-16
	MOVQ	n+0(FP), AX
	ADDQ	$20, AX
	MOVQ	AX, ret+8(FP)
	RET
